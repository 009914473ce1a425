"""BlendMask: FCOS, whose faces blend a few image-wide bases."""

from comics.modeling.detectors.blendmask.detector import BlendMask

__all__ = ["BlendMask"]

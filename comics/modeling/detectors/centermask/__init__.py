"""CenterMask: FCOS, and a mask head with spatial attention on its boxes."""

from comics.modeling.detectors.centermask.detector import CenterMask

__all__ = ["CenterMask"]

"""RetinaMask: RetinaNet, and a mask head on its boxes."""

from comics.modeling.detectors.retinamask.detector import RetinaMask

__all__ = ["RetinaMask"]

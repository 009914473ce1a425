"""SOLOv2: faces by location, masks by dynamic convolution."""

from comics.modeling.detectors.solov2.detector import SOLOv2

__all__ = ["SOLOv2"]

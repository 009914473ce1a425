"""YOLACT and YOLACT++: masks as combinations of a few prototypes of the whole image."""

from comics.modeling.detectors.yolact.detector import YOLACT
from comics.modeling.detectors.yolact.plus_plus import YOLACTPlusPlus

__all__ = ["YOLACT", "YOLACTPlusPlus"]

"""PolarMask: FCOS, whose locations predict the contour around them."""

from comics.modeling.detectors.polarmask.detector import PolarMask

__all__ = ["PolarMask"]

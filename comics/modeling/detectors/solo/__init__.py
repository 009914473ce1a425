"""SOLO: a mask for every cell of a grid."""

from comics.modeling.detectors.solo.detector import SOLO

__all__ = ["SOLO"]

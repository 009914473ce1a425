"""Mask Scoring R-CNN: Mask R-CNN that knows how good its masks are."""

from comics.modeling.detectors.mask_scoring_rcnn.detector import MaskScoringRCNN

__all__ = ["MaskScoringRCNN"]

"""Mask R-CNN on a feature pyramid, numerically Detectron2's."""

from comics.modeling.detectors.mask_rcnn.detector import MaskRCNN

__all__ = ["MaskRCNN"]

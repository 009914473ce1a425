"""Mask Scoring R-CNN (Huang et al. 2019, arXiv:1903.00241): Mask R-CNN, and a head that tells how
good a mask is; the class score times that is the score of a face. docs/methods.md#ms-rcnn.
"""

from __future__ import annotations

from comics.config import CfgNode
from comics.modeling.detectors.mask_iou import MaskIoUHead
from comics.modeling.detectors.mask_rcnn import MaskRCNN
from comics.registry import DETECTORS


@DETECTORS.register()
class MaskScoringRCNN(MaskRCNN):
    """Mask R-CNN whose ``mask_iou_head`` is there; losses as its, and "loss_maskiou"."""

    selection_parts = ("box_head", "mask_head", "mask_iou_head")
    pooled_heads = ("box_head", "mask_head", "mask_iou_head")

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict:
        """As Mask R-CNN's, and ``MODEL.ROI_MASKIOU_HEAD``."""
        parts = super().parts_from_config(cfg)
        head = MaskIoUHead.from_config(cfg, parts["backbone"].out_channels)
        return parts | {"mask_iou_head": head}

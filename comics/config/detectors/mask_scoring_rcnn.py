"""The configuration keys of Mask Scoring R-CNN: those of its MaskIoU head, CenterMask's too."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.ROI_MASKIOU_HEAD = CfgNode()  # tells how good a mask is; its score is multiplied by that
    model.ROI_MASKIOU_HEAD.NUM_CONV = 4  # 3x3 convolutions, the last of stride 2
    model.ROI_MASKIOU_HEAD.CONV_DIM = 256  # their channels
    model.ROI_MASKIOU_HEAD.FC_DIM = 1024  # width of the two fully connected layers after them
    model.ROI_MASKIOU_HEAD.LOSS_WEIGHT = 1.0  # factor on the loss of the IoU

"""The configuration keys of CenterMask; further ones are MODEL.FCOS's, ROI_HEADS' (how boxes are
drawn for the masks), ROI_MASK_HEAD's and ROI_MASKIOU_HEAD's.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.CENTERMASK = CfgNode()
    model.CENTERMASK.MASK_IN_FEATURES = ["p3", "p4", "p5"]  # levels that masks are pooled from
    # Which of them: by the box's share of the image ("ratio"), or its size ("area", as Mask R-CNN)
    model.CENTERMASK.ASSIGN_CRITERION = "ratio"
    model.CENTERMASK.SPATIAL_ATTENTION = True  # weigh the places of a box before the doubling
    model.CENTERMASK.MASKIOU_ON = True  # multiply scores by the predicted IoU of the masks

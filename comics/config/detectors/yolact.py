"""The configuration keys of YOLACT and YOLACT++; anchors are those of MODEL.ANCHOR_GENERATOR."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.YOLACT = CfgNode()
    model.YOLACT.NUM_CLASSES = 2  # 0 real, 1 fake; background comes last
    # Pyramid levels that predict; prototypes are made of the first
    model.YOLACT.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    model.YOLACT.NUM_PROTOTYPES = 32  # maps that a mask is a combination of
    model.YOLACT.NUM_PROTOTYPE_CONVS = 3  # 3x3 convolutions before they are enlarged
    model.YOLACT.PROTOTYPE_CHANNELS = 256  # of those convolutions
    # Anchors are background below the first overlap with a face, faces from the second on
    model.YOLACT.IOU_THRESHOLDS = [0.4, 0.5]
    model.YOLACT.NEGATIVES_PER_POSITIVE = 3  # the hardest anchors of the background, per image
    model.YOLACT.MASKS_PER_IMAGE = 100  # anchors of faces whose masks are trained, at random
    model.YOLACT.CLASS_WEIGHT = 1.0  # factor on the class loss
    model.YOLACT.BOX_WEIGHT = 1.5  # factor on the box loss
    model.YOLACT.MASK_WEIGHT = 6.125  # factor on the mask loss
    model.YOLACT.SEMANTIC_WEIGHT = 1.0  # factor on the auxiliary semantic segmentation loss
    model.YOLACT.SCORE_THRESH_TEST = 0.05  # candidates need a class probability above this
    model.YOLACT.NMS_TOPK_TEST = 200  # candidates per class and image
    model.YOLACT.NMS_THRESH_TEST = 0.5  # IoU of the suppression, per class
    model.YOLACT.NMS_TYPE = "fast"  # suppressed boxes suppress others too; or "greedy"

    # YOLACT++: the network that tells how good a mask is
    model.YOLACT.SCORER_CHANNELS = [8, 16, 32, 64, 128]  # its convolutions, each of stride 2
    model.YOLACT.SCORER_WEIGHT = 25.0  # factor on its loss
    model.YOLACT.SCORER_SMALLEST_MASK = 25  # cells: smaller faces do not teach it

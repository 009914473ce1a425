"""The configuration keys of RetinaMask: Detectron2's of RetinaNet, and its own beside them.

Further ones: MODEL.ANCHOR_GENERATOR, MODEL.ROI_HEADS (how boxes are drawn for the masks),
MODEL.ROI_MASK_HEAD.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.RETINANET = CfgNode()
    model.RETINANET.NUM_CLASSES = 2  # 0 real, 1 fake
    model.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # pyramid levels that predict
    model.RETINANET.MASK_IN_FEATURES = ["p3", "p4", "p5"]  # levels that masks are pooled from
    model.RETINANET.NUM_CONVS = 4  # depth of the towers
    model.RETINANET.NORM = ""  # of the towers: "", "GN", "BN", "SyncBN"
    model.RETINANET.PRIOR_PROB = 0.01  # initial foreground probability
    # Anchors are background below the first overlap with a face, faces from the second on
    model.RETINANET.IOU_THRESHOLDS = [0.4, 0.5]
    model.RETINANET.BBOX_REG_WEIGHTS = [1.0, 1.0, 1.0, 1.0]  # factors on dx, dy, dw, dh
    model.RETINANET.FOCAL_LOSS_ALPHA = 0.25  # weight of positives
    model.RETINANET.FOCAL_LOSS_GAMMA = 2.0  # how much easy examples are played down
    model.RETINANET.SMOOTH_L1_LOSS_BETA = 0.11  # where the box loss turns from square to linear
    model.RETINANET.SELF_ADJUSTING = True  # that turning point follows the errors, up to the above
    model.RETINANET.SMOOTH_L1_MOMENTUM = 0.9  # share of the running errors that a step keeps
    model.RETINANET.SCORE_THRESH_TEST = 0.05  # candidates need a class probability above this
    model.RETINANET.TOPK_CANDIDATES_TEST = 1000  # candidates per level and image
    model.RETINANET.NMS_THRESH_TEST = 0.5  # IoU of the suppression, per class

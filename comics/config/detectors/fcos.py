"""The configuration keys of FCOS."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.FCOS = CfgNode()
    model.FCOS.NUM_CLASSES = 2  # 0 real, 1 fake
    model.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # pyramid levels that predict
    model.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels per cell of those levels
    model.FCOS.PRIOR_PROB = 0.01  # initial foreground probability
    model.FCOS.SCORE_THRESH_TEST = 0.05  # candidates need a class probability above this
    model.FCOS.NMS_TH = 0.6  # IoU of the per-class suppression; <= 0 disables it
    model.FCOS.PRE_NMS_TOPK_TEST = 1000  # candidates per level and image
    model.FCOS.POST_NMS_TOPK_TEST = 100  # detections per image
    model.FCOS.TOP_LEVELS = 2  # levels above p5: 2 = p6, p7
    model.FCOS.NORM = "GN"  # of the towers: "GN", "BN", "SyncBN", "none"
    model.FCOS.USE_DEFORMABLE = False  # the last convolution of both towers is a DCNv2
    model.FCOS.USE_SCALE = True  # a learnt factor per level on the box branch
    model.FCOS.BOX_QUALITY = "ctrness"  # or "iou"
    model.FCOS.THRESH_WITH_CTR = False  # multiply by the quality before the threshold
    model.FCOS.LOSS_ALPHA = 0.25  # focal loss
    model.FCOS.LOSS_GAMMA = 2.0  # focal loss: how much easy examples are played down
    model.FCOS.LOSS_NORMALIZER_CLS = "fg"  # "fg", "moving_fg", "all"
    model.FCOS.LOSS_WEIGHT_CLS = 1.0  # factor on the class loss
    model.FCOS.SIZES_OF_INTEREST = [64, 128, 256, 512]  # pixels, bounds between levels
    model.FCOS.NUM_CLS_CONVS = 4  # depth of the towers
    model.FCOS.NUM_BOX_CONVS = 4  # of the box tower
    model.FCOS.NUM_SHARE_CONVS = 0  # of a tower before both
    model.FCOS.CENTER_SAMPLE = True  # only locations near a face's centre are positive
    model.FCOS.POS_RADIUS = 1.5  # in strides
    model.FCOS.LOC_LOSS_TYPE = "giou"  # "iou", "linear_iou", "giou"

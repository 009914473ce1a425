"""The configuration keys of the detectors: ``MODEL.FCOS``, ``MODEL.BLENDMASK``, ...

Names and defaults are Detectron2's and AdelaiDet's where they have the key; ``comics.config``
adds them to its own. One function a detector.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_detector_config(cfg: CfgNode) -> None:
    """Add the keys of every detector to ``cfg.MODEL``."""
    model = cfg.MODEL
    model.PROPOSAL_GENERATOR = CfgNode()
    model.PROPOSAL_GENERATOR.NAME = "FCOS"  # of one-stage detectors; "RPN" for Mask R-CNN
    _add_fcos(model)
    _add_blendmask(model)


def _add_fcos(model: CfgNode) -> None:
    model.FCOS = CfgNode()
    model.FCOS.NUM_CLASSES = 2  # 0 real, 1 fake
    model.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # pyramid levels that predict
    model.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels per cell of those levels
    model.FCOS.PRIOR_PROB = 0.01  # initial foreground probability
    model.FCOS.INFERENCE_TH_TEST = 0.05  # candidates need a class probability above this
    model.FCOS.NMS_TH = 0.6  # IoU of the per-class suppression; <= 0 disables it
    model.FCOS.PRE_NMS_TOPK_TEST = 1000  # candidates per level and image
    model.FCOS.POST_NMS_TOPK_TEST = 100  # detections per image
    model.FCOS.TOP_LEVELS = 2  # levels above p5: 2 = p6, p7
    model.FCOS.NORM = "GN"  # of the towers: "GN", "BN", "SyncBN", "none"
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


def _add_blendmask(model: CfgNode) -> None:
    model.BASIS_MODULE = CfgNode()
    model.BASIS_MODULE.NAME = "ProtoNet"  # the only choice
    model.BASIS_MODULE.NUM_BASES = 4  # bases that a mask is blended from
    model.BASIS_MODULE.LOSS_ON = True  # auxiliary semantic segmentation loss
    model.BASIS_MODULE.CONVS_DIM = 128  # channels of its convolutions
    model.BASIS_MODULE.IN_FEATURES = ["p3", "p4", "p5"]  # the first one sets the resolution
    model.BASIS_MODULE.NORM = "BN"  # "BN", "SyncBN", "GN"
    model.BASIS_MODULE.NUM_CONVS = 3  # convolutions before the bases are enlarged
    model.BASIS_MODULE.COMMON_STRIDE = 8  # pixels between the semantic labels that are read
    model.BASIS_MODULE.NUM_CLASSES = 2  # the head has one more, background
    model.BASIS_MODULE.LOSS_WEIGHT = 0.3  # factor on the semantic loss

    model.BLENDMASK = CfgNode()
    model.BLENDMASK.ATTN_SIZE = 14  # side of the attention map that a location predicts
    model.BLENDMASK.TOP_INTERP = "bilinear"  # how the attention is enlarged
    model.BLENDMASK.BOTTOM_RESOLUTION = 56  # side of the blended square mask
    model.BLENDMASK.POOLER_SAMPLING_RATIO = 1  # samples per bin and side of the ROIAlign
    model.BLENDMASK.POOLER_SCALES = [0.25]  # bases per image pixel
    model.BLENDMASK.INSTANCE_LOSS_WEIGHT = 1.0  # factor on the mask loss
    # True: paste a mask into its box clipped to the image, as AdelaiDet (squeezes masks of faces
    # that reach over the border); False: into the whole box, which keeps them in place
    model.BLENDMASK.PASTE_CLIPPED = False

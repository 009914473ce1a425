"""The configuration keys of BlendMask."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
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

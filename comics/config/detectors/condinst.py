"""The configuration keys of CondInst."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.CONDINST = CfgNode()
    model.CONDINST.MASK_OUT_STRIDE = 4  # pixels per cell of predicted and target masks; divides 8
    # Train masks on at most this many positive locations per process, drawn at random; -1: all
    model.CONDINST.MAX_PROPOSALS = -1
    # Or on this many per image, shared equally by its faces, the best of each; -1: all
    model.CONDINST.TOPK_PROPOSALS_PER_IM = -1

    model.CONDINST.MASK_HEAD = CfgNode()  # the convolutions whose weights each face predicts
    model.CONDINST.MASK_HEAD.CHANNELS = 8  # of its inner layers
    model.CONDINST.MASK_HEAD.NUM_LAYERS = 3  # 1x1 convolutions
    model.CONDINST.MASK_HEAD.DISABLE_REL_COORDS = False  # True: no coordinates among its inputs

    model.CONDINST.MASK_BRANCH = CfgNode()  # the image-wide maps that it decodes
    model.CONDINST.MASK_BRANCH.OUT_CHANNELS = 8  # number of those maps
    model.CONDINST.MASK_BRANCH.IN_FEATURES = ["p3", "p4", "p5"]  # the first sets the resolution
    model.CONDINST.MASK_BRANCH.CHANNELS = 128  # of its inner convolutions
    model.CONDINST.MASK_BRANCH.NORM = "BN"  # "BN", "SyncBN", "GN"
    model.CONDINST.MASK_BRANCH.NUM_CONVS = 4  # depth after the levels are summed
    model.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON = False  # auxiliary semantic segmentation loss

    model.BOXINST = CfgNode()  # train CondInst's masks from boxes alone
    model.BOXINST.ENABLED = False  # its two losses replace the mask loss; masks are not read
    # Rows at the image's bottom whose colours are not trusted, pixels of the network's input
    model.BOXINST.BOTTOM_PIXELS_REMOVED = 10
    model.BOXINST.PAIRWISE = CfgNode()
    model.BOXINST.PAIRWISE.SIZE = 3  # side of the neighbourhood, cells of the mask, odd
    model.BOXINST.PAIRWISE.DILATION = 2  # cells between neighbours
    model.BOXINST.PAIRWISE.WARMUP_ITERS = 10000  # steps until the pairwise loss has its full weight
    model.BOXINST.PAIRWISE.COLOR_THRESH = 0.3  # neighbours at least this similar must agree

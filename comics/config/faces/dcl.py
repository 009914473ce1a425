"""The configuration keys of DCL."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
    _F.DCL = CfgNode()
    _F.DCL.KEY_MOMENTUM = 0.99  # beta of the key encoder
    _F.DCL.TEMPERATURE = 0.07  # tau of both contrasts
    _F.DCL.INTER = True  # inter-instance contrast (Table 5, "Inter")
    _F.DCL.INTRA = True  # intra-instance contrast (Table 5, "Intra")
    _F.DCL.BANK_SIZE = 30000  # keys per class
    _F.DCL.PROTOTYPE_MOMENTUM = 0.9  # alpha
    # Which keys enter a bank: "threshold" (paper), "topk" (public code), or "all": no selection
    # of hard samples (Table 5, without "Hard")
    _F.DCL.SELECT = "threshold"
    _F.DCL.SELECT_THRESHOLD = 0.5  # theta: similarity with the other class's prototype
    _F.DCL.SELECT_TOPK = 5  # keys per class and step of "topk"
    # A map cell is forged above this mean |x_fake - x_real|, 0-255 scale (reconstructed)
    _F.DCL.MASK_THRESHOLD = 10.0
    # Weights of L_inter, L_f (fakes) and L_r (reals) within phi (paper: all 1)
    _F.DCL.WEIGHTS = [1.0, 1.0, 1.0]
    _F.DCL.CONTRAST_WEIGHT = 0.5  # phi; cross-entropy gets 1 - phi
    _F.DCL.WARMUP_WEIGHT = 0.1  # phi in the first epochs; 0: cross-entropy alone
    _F.DCL.WARMUP_EPOCHS = 5  # how many these are
    # How views are made, read by the data pipeline; the paper gives no probability (decision)
    _F.DCL.VIEWS = CfgNode()
    _F.DCL.VIEWS.ENABLED = True  # False: common augmentation only (Table 5, without "Views")
    _F.DCL.VIEWS.PATCH_PROB = 0.5  # RandomPatch
    _F.DCL.VIEWS.PATCH_GRID = 4  # k: patches per side that are shuffled
    _F.DCL.VIEWS.HIGH_FREQUENCY_PROB = 0.5  # SRM residual added to the image
    _F.DCL.VIEWS.FRAME_SHIFT_PROB = 0.5  # the key view is another frame of the video
    _F.DCL.VIEWS.MIXUP_PROB = 0.5  # fakes mixed with their paired real
    _F.DCL.VIEWS.MIXUP_SHARE = [0.5, 1.0]  # share of the fake, drawn from this range

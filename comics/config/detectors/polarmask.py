"""The configuration keys of PolarMask; further ones are MODEL.FCOS's."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.POLARMASK = CfgNode()
    model.POLARMASK.NUM_RAYS = 36  # of a contour, evenly around its centre
    model.POLARMASK.RAY_STEP = 0.5  # pixels between samples, when the rays of faces are measured
    model.POLARMASK.MASK_WEIGHT = 1.0  # factor on the loss of the rays

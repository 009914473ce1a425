"""The configuration keys of the detectors: ``MODEL.FCOS``, ``MODEL.BLENDMASK``, ...

One module a detector, found by being here: each has ``add_keys(model)``, which adds its nodes to
``cfg.MODEL``. Names and defaults are Detectron2's and AdelaiDet's where they have the key.
"""

from __future__ import annotations

import importlib
import pkgutil

from fvcore.common.config import CfgNode


def add_detector_config(cfg: CfgNode) -> None:
    """Add the keys of every detector to ``cfg.MODEL``."""
    cfg.MODEL.PROPOSAL_GENERATOR = CfgNode()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "FCOS"  # of one-stage detectors; "RPN" for Mask R-CNN
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        importlib.import_module(f"{__name__}.{module.name}").add_keys(cfg.MODEL)

"""Which augmentation a face method trains with."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from comics.data.faces.contrastive_views import ContrastiveViews
from comics.data.faces.views import DCLViews, FaceAugmenter

Augmenter = FaceAugmenter | DCLViews | ContrastiveViews
CONTRASTIVE = ("RealCentric", "SupervisedContrastive", "CORE")


def face_augmenter(cfg: CfgNode) -> Augmenter:
    """What MODEL.FACE.METHOD trains with: its paper's views where they are on, else INPUT.FACE's.

    Raises:
        ValueError: for values out of range.
    """
    face = cfg.MODEL.FACE
    if face.METHOD == "DCL" and face.DCL.VIEWS.ENABLED:
        return DCLViews.from_config(cfg)
    if face.METHOD in CONTRASTIVE and face.REAL_CENTRIC.VIEWS.ENABLED:
        return ContrastiveViews.from_config(cfg)
    return FaceAugmenter.from_config(cfg)

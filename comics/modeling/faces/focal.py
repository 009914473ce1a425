"""Cross-entropy that weighs easy faces less: the focal loss as a baseline.

docs/methods.md#competitors-focal.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from comics.config import CfgNode
from comics.modeling.faces.base import FaceTrainingOutput
from comics.modeling.faces.cross_entropy import CrossEntropy
from comics.modeling.faces.encoder import Encoder
from comics.ops.contrastive import zero_of
from comics.ops.losses import focal_loss
from comics.registry import FACE_METHODS
from comics.structures import FAKE, FaceBatch


def mean_focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean of ``-a (1 - p)^gamma log p`` with p the probability of the true class (eq. 5).

    Args:
        logits: [N] of P(fake).
        labels: [N] int64, 0 real, 1 fake.
        alpha: a of fakes; reals have ``1 - alpha``.
        gamma: 0 gives weighted cross-entropy.
    """
    if len(logits) == 0:
        return zero_of(logits)
    background = (labels != FAKE).long()  # one class, "fake", and what is none of it
    total = focal_loss(logits[:, None], background, alpha=alpha, gamma=gamma)
    return total / len(logits)


@FACE_METHODS.register()
class FocalLoss(CrossEntropy):
    """The plain classifier with the focal loss.

    Args:
        alpha, gamma: see ``mean_focal_loss``.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    views: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder, *, alpha: float, gamma: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.alpha = alpha
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FocalLoss:
        """From ``MODEL.FACE.FOCAL``."""
        keys = cfg.MODEL.FACE.FOCAL
        return cls(**cls.settings(cfg), alpha=keys.ALPHA, gamma=keys.GAMMA)

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """The focal loss over all images."""
        logits = self.map_logits(self.feature_map(batch.images))
        loss = mean_focal_loss(logits, batch.labels, self.alpha, self.gamma)
        return FaceTrainingOutput({"loss_focal": loss})

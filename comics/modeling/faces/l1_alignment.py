"""Cross-entropy on both compression levels, plus their embeddings' distance (eq. 10).

docs/methods.md#compressionrelation-baselines.

Shape letters: B samples; V of them with a strong view; D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch

from comics.config import CfgNode
from comics.modeling.faces.base import FaceTrainingOutput
from comics.modeling.faces.embedding import EmbeddingMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy
from comics.ops.contrastive import mean_or_zero
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


@FACE_METHODS.register()
class L1Alignment(EmbeddingMethod):
    """The "CE + L1" of CompressionRelation.

    Args:
        weight: of the distance, a mean over pairs and dimensions (the paper's sum over 512
            dimensions has no weight; reconstructed).
        encoder: see ``EmbeddingMethod``, as further keyword arguments.
    """

    views: tuple[str, ...] = ("strong",)

    def __init__(self, encoder: Encoder, *, weight: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.weight = weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> L1Alignment:
        """From ``MODEL.FACE.L1`` and ``MODEL.FACE.EMBEDDING``."""
        return cls(**cls.settings(cfg), weight=cfg.MODEL.FACE.L1.WEIGHT)

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of both levels, and ``mean |z_w - z_s|`` over the V pairs."""
        weak, strong, valid = self.embed_levels(batch)
        labels = torch.cat([batch.labels, batch.labels[valid]])
        distance = mean_or_zero((weak[valid].float() - strong.float()).abs())
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(self.predict(torch.cat([weak, strong])), labels),
                "loss_l1": self.weight * distance,
            }
        )

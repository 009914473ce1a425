"""Cross-entropy on both compression levels, plus a discriminator of the level to be fooled.

"CE + GAN" of docs/methods.md#compressionrelation-baselines (eq. 11 and 12, after its reference 9).
Shape letters: D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceTrainingOutput
from comics.modeling.faces.embedding import EmbeddingMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import LevelDiscriminator, binary_cross_entropy
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


@FACE_METHODS.register()
class AdversarialAlignment(EmbeddingMethod):
    """The "CE + GAN": embeddings of the two levels are made hard to tell apart.

    The paper's alternating min-max is done in one step by a reversed gradient (decision).

    Args:
        weight: of the discriminator's loss.
        reversal: factor on the reversed gradient.
        discriminator_dim: width of the discriminator.
        encoder: see ``EmbeddingMethod``, as further keyword arguments.
    """

    views: tuple[str, ...] = ("strong",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        weight: float,
        reversal: float,
        discriminator_dim: int,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        self.weight = weight
        self.reversal = reversal
        self.discriminator_dim = discriminator_dim

    @classmethod
    def from_config(cls, cfg: CfgNode) -> AdversarialAlignment:
        """From ``MODEL.FACE.ADVERSARIAL`` and ``MODEL.FACE.EMBEDDING``."""
        keys = cfg.MODEL.FACE.ADVERSARIAL
        return cls(
            **cls.settings(cfg),
            weight=keys.WEIGHT,
            reversal=keys.REVERSAL,
            discriminator_dim=keys.HIDDEN_DIM,
        )

    def training_modules(self) -> dict[str, nn.Module]:
        """The discriminator."""
        discriminator = LevelDiscriminator(self.dim, self.discriminator_dim, self.reversal)
        return {"discriminator": discriminator}

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of both levels, and the discriminator's loss."""
        weak, strong, valid = self.embed_levels(batch)
        labels = torch.cat([batch.labels, batch.labels[valid]])
        adversarial = self.training_part("discriminator")(weak[valid], strong)
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(self.predict(torch.cat([weak, strong])), labels),
                "loss_adversarial": self.weight * adversarial,
            }
        )

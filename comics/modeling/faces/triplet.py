"""Cross-entropy plus the triplet loss on one compression level (4.2, Table 2).

docs/methods.md#compressionrelation-baselines.

Shape letters: B samples; D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.modeling.faces.base import FaceTrainingOutput
from comics.modeling.faces.embedding import EmbeddingMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy
from comics.ops.contrastive import mean_or_zero
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over all triplets of ``max(|a - p|^2 - |a - n|^2 + margin, 0)``.

    Every anchor with every positive and negative of the batch, where the paper draws one of each
    (decision: the same expectation, less variance). Without a triplet it is a connected 0.

    Args:
        embeddings: [B, D].
        labels: [B] int64.
    """
    squared = (embeddings[:, None] - embeddings[None]).pow(2).sum(dim=2)
    same = labels[:, None] == labels[None]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    triplets = positive[:, :, None] & ~same[:, None, :]
    hinge = (squared[:, :, None] - squared[:, None, :] + margin).clamp(min=0)
    return mean_or_zero(hinge[triplets])


@FACE_METHODS.register()
class Triplet(EmbeddingMethod):
    """The "CE + triplet loss" of 4.2; the level is that of the images it is given.

    Args:
        weight: of the triplet loss.
        margin: alpha, in squared distance.
        encoder: see ``EmbeddingMethod``, as further keyword arguments.
    """

    def __init__(self, encoder: Encoder, *, weight: float, margin: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.weight = weight
        self.margin = margin

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Triplet:
        """From ``MODEL.FACE.TRIPLET`` and ``MODEL.FACE.EMBEDDING``."""
        keys = cfg.MODEL.FACE.TRIPLET
        return cls(**cls.settings(cfg), weight=keys.WEIGHT, margin=keys.MARGIN)

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy and triplet loss of the images."""
        embeddings = self.map_embeddings(self.feature_map(batch.images))
        loss = triplet_loss(embeddings.float(), batch.labels, self.margin)
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(self.predict(embeddings), batch.labels),
                "loss_triplet": self.weight * loss,
            }
        )

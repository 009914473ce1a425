"""CORE, consistent representation learning: docs/methods.md#competitors-core.

Shape letters: B samples; V of them with a second view; C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.ops.contrastive import mean_or_zero
from comics.ops.similarity import cosine
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean of ``(1 - cosine)^2`` of the features [V, C] of two views; a connected 0 for none."""
    return mean_or_zero((1 - cosine(first.float(), second.float())).square())


@FACE_METHODS.register()
class CORE(FaceMethod):
    """Cross-entropy of two views of a face, whose features must agree.

    View "key": the face augmented once more, drawn on its own.

    Args:
        weight: of the consistency loss.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    views: tuple[str, ...] = ("key",)
    crop_size = 299

    def __init__(self, encoder: Encoder, *, weight: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.weight = weight
        self.classifier = nn.Linear(encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CORE:
        """From ``MODEL.FACE.CORE``."""
        return cls(**cls.settings(cfg), weight=cfg.MODEL.FACE.CORE.WEIGHT)

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``L_ce`` over both views, and ``weight * L_consistency``, in one forward pass."""
        valid = batch.valid["key"]
        images = torch.cat([batch.images, batch.views["key"][valid]])
        labels = torch.cat([batch.labels, batch.labels[valid]])
        features = self.encoder.pool(self.feature_map(images))
        logits = self.classifier(features).flatten()
        with full_precision(features):
            first, second = features[: len(batch)][valid], features[len(batch) :]
            consistency = consistency_loss(first, second)
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(logits, labels),
                "loss_consistency": self.weight * consistency,
            }
        )

"""The plain classifier: encoder, pooling, one linear layer, cross-entropy.

With ``mixed`` it also trains on strongly compressed views: "CE loss" of Table 1,
docs/methods.md#compressionrelation-baselines.
Shape letters: N crops; C channels; h, w of the feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


@FACE_METHODS.register()
class CrossEntropy(FaceMethod):
    """Cross-entropy baseline.

    Args:
        encoder: see ``FaceMethod``, as further keyword arguments.
        mixed: whether strongly compressed views ("strong") are trained on like further images.
    """

    views: tuple[str, ...] = ("strong",)
    crop_size = 299

    def __init__(self, encoder: Encoder, *, mixed: bool = False, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.views = type(self).views if mixed else ()
        self.classifier = nn.Linear(encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CrossEntropy:
        """From ``MODEL.FACE.CROSS_ENTROPY``."""
        return cls(**cls.settings(cfg), mixed=cfg.MODEL.FACE.CROSS_ENTROPY.MIXED)

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy over all images, and all strong views that there are."""
        images, labels = [batch.images], [batch.labels]
        for view in self.views:
            valid = batch.valid[view]
            images.append(batch.views[view][valid])
            labels.append(batch.labels[valid])
        logits = self.map_logits(self.feature_map(torch.cat(images)))
        return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, torch.cat(labels))})

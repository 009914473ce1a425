"""Encoder, projector and predictor of CompressionRelation, which its baselines share.

``z = g(F(x))`` with F the encoder and g two linear layers; logit = Y(z) with Y two linear layers
(docs/methods.md#compressionrelation-sample). Shape letters: N crops; C channels; h, w of the map;
D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import two_layers
from comics.structures import FaceBatch


class EmbeddingMethod(FaceMethod):
    """Base of the methods that classify an embedding.

    Args:
        encoder: see ``FaceMethod``, as further keyword arguments.
        dim: D.
        hidden_dim: between the two layers of the projector.
        predictor_dim: between the two layers of the predictor.
    """

    crop_size = 224

    def __init__(
        self, encoder: Encoder, *, dim: int, hidden_dim: int, predictor_dim: int, **shared: Any
    ) -> None:
        super().__init__(encoder, **shared)
        self.dim = dim
        self.projector = two_layers(encoder.num_features, hidden_dim, dim)
        self.predictor = two_layers(dim, predictor_dim, 1)

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.FACE`` and ``MODEL.FACE.EMBEDDING``."""
        embedding = cfg.MODEL.FACE.EMBEDDING
        return {
            **FaceMethod.settings(cfg),
            "dim": embedding.DIM,
            "hidden_dim": embedding.HIDDEN_DIM,
            "predictor_dim": embedding.PREDICTOR_DIM,
        }

    def map_embeddings(self, feature_map: Tensor) -> Tensor:
        """z [N, D] of [N, C, h, w]."""
        return self.projector(self.encoder.pool(feature_map))

    def predict(self, embeddings: Tensor) -> Tensor:
        """Logits [N] of z [N, D]."""
        return self.predictor(embeddings).flatten()

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.predict(self.map_embeddings(feature_map))

    def embed_levels(self, batch: FaceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of images and of the strong views that there are, in one forward pass.

        Returns:
            z_w [B, D], z_s [V, D], and [B] bool which samples the V are.
        """
        valid = batch.valid["strong"]
        images = torch.cat([batch.images, batch.views["strong"][valid]])
        embeddings = self.map_embeddings(self.feature_map(images))
        return embeddings[: len(batch)], embeddings[len(batch) :], valid

"""SRM two-stream: colours beside noise residuals ("GFF" of the papers' tables).

docs/methods.md#competitors-srm-two-stream. Shape letters: N crops; C channels; S side of a crop;
h, w of the map.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.cross_attention import CrossAttention
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy
from comics.ops.srm import srm_residual
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch

ATTENTION_KERNEL = 7  # of the spatial attention, as docs/papers.md#cbam


class SpatialGate(nn.Module):
    """Spatial attention drawn from one map, applied to another: ``F (1 + sigmoid(conv))``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, ATTENTION_KERNEL, padding=ATTENTION_KERNEL // 2)

    def forward(self, guide: Tensor, features: Tensor) -> Tensor:
        """[N, C, h, w] each; the mean and the largest channel of ``guide`` are looked at."""
        summary = torch.cat([guide.mean(dim=1, keepdim=True), guide.amax(dim=1, keepdim=True)], 1)
        return features * (1 + self.conv(summary).sigmoid())


class ChannelGate(nn.Module):
    """Channel attention: ``F sigmoid(MLP(mean of the cells))``."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Linear(channels, narrow), nn.ReLU(inplace=True), nn.Linear(narrow, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, h, w] to the same."""
        return features * self.layers(features.mean(dim=(2, 3))).sigmoid()[:, :, None, None]


@FACE_METHODS.register()
class SRMTwoStream(FaceMethod):
    """Cross-entropy on the joined maps of a colour stream and a residual stream.

    The residual map draws a spatial attention on the colour map; the two attend to each other;
    joined, their channels are weighed. ``feature_map`` is the joined one, of 2 C channels.

    Args:
        truncate: residuals are cut to +- this many grey levels, then divided by it.
        encoder: of the colour stream, copied for the other; see ``FaceMethod``, as further
            keyword arguments.
    """

    crop_size = 256

    def __init__(self, encoder: Encoder, *, truncate: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.truncate = truncate
        channels = encoder.num_features
        self.noise_encoder = copy.deepcopy(encoder)
        self.gate = SpatialGate()
        self.attention = CrossAttention(channels)
        self.weigh = ChannelGate(2 * channels)
        self.classifier = nn.Linear(2 * channels, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SRMTwoStream:
        """From ``MODEL.FACE.SRM_TWO_STREAM``."""
        return cls(**cls.settings(cfg), truncate=cfg.MODEL.FACE.SRM_TWO_STREAM.TRUNCATE)

    def encoders(self) -> list[Encoder]:
        """That of the colours, and that of the residuals."""
        return [self.encoder, self.noise_encoder]

    def load_encoder_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """As ``FaceMethod``, both encoders."""
        for encoder in self.encoders():
            encoder.load_weights(state, source)

    def feature_map(self, crops: Tensor) -> Tensor:
        """[N, 2 C, h, w] of crops on the 0-255 scale."""
        colours = self.encoder.forward_map(self.preprocess(crops))
        residual = srm_residual(crops, truncate=self.truncate) / self.truncate
        noise = self.noise_encoder.forward_map(residual)
        first, second = self.attention(self.gate(noise, colours), noise)
        return self.weigh(torch.cat([first, second], dim=1))

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, 2 C, h, w]."""
        return self.classifier(feature_map.mean(dim=(2, 3))).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of all images."""
        logits = self.map_logits(self.feature_map(batch.images))
        return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, batch.labels)})

"""RECCE, reconstruction and classification learning: docs/methods.md#competitors-recce.

A network that learns to reconstruct real faces alone fails where a face is forged.
Shape letters: N crops, B of a batch; R of them real; C channels; D width of the decoder; S side of
a crop; h, w of the map; P = h * w its cells.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.ops.contrastive import mean_or_zero
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import REAL, FaceBatch


class Decoder(nn.Module):
    """From a map to a normalised crop: a convolution, then doublings until the side is reached.

    Args:
        channels: C.
        width: D of the first stage, halved with each doubling, at least 8.
        cells, size: h and S.
    """

    def __init__(self, channels: int, width: int, cells: int, size: int) -> None:
        super().__init__()
        steps = max(1, math.ceil(math.log2(size / cells)))
        self.size = size
        self.first = nn.Conv2d(channels, width, 1)
        stages: list[nn.Module] = []
        for _ in range(steps):
            narrow = max(8, width // 2)
            convolution = nn.Conv2d(width, narrow, 3, padding=1, bias=False)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(narrow), nn.ReLU()))
            width = narrow
        self.stages = nn.ModuleList(stages)
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, h, w] to the decoder's own features [N, D, h, w] and the crop [N, 3, S, S]."""
        hidden = self.first(features)
        x = hidden
        for stage in self.stages:
            x = stage(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        picture = functional.interpolate(
            self.last(x), size=(self.size, self.size), mode="bilinear", align_corners=False
        )
        return hidden, picture


class BipartiteReasoning(nn.Module):
    """Each cell of the encoder's map gathers cells of the decoder's by graph attention (3.3).

    ``e_ij = LeakyReLU(a . x_i + b . y_j)``, ``x_i + W sum_j softmax_j(e_ij) y_j``.

    Args:
        channels, width: C of x, D of y.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.of_encoder = nn.Conv2d(channels, 1, 1)
        self.of_decoder = nn.Conv2d(width, 1, 1, bias=False)
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """[N, C, h, w] and [N, D, h, w] to [N, C, h, w]."""
        pairs = self.of_encoder(encoded).flatten(2).mT + self.of_decoder(decoded).flatten(2)
        weights = functional.leaky_relu(pairs, 0.2).softmax(dim=2)  # [N, P, P]
        gathered = decoded.flatten(2) @ weights.mT
        return encoded + self.project(gathered.unflatten(2, encoded.shape[-2:]))


def metric_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Reals near each other and away from fakes (eq. 3): mean d within reals - mean d across.

    ``d = (1 - cosine) / 2``. A kind of pairs that a batch has not adds a connected 0.

    Args:
        features: [B, C].
        labels: [B] int64.
    """
    vectors = unit(features)
    distance = (1 - vectors @ vectors.T) / 2
    real = labels == REAL
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    within = distance[real[:, None] & real[None] & others]
    across = distance[real[:, None] & ~real[None]]
    return mean_or_zero(within) - mean_or_zero(across)


@FACE_METHODS.register()
class RECCE(FaceMethod):
    """Cross-entropy on the encoder's map, reasoned and attended to by a reconstruction.

    Args:
        decoder_dim: D.
        noise: standard deviation of the noise on what is encoded in training, normalised scale.
        reconstruction_weight, metric_weight: lambda 1 and 2.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    crop_size = 299

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder_dim: int,
        noise: float,
        reconstruction_weight: float,
        metric_weight: float,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        self.noise = noise
        self.reconstruction_weight = reconstruction_weight
        self.metric_weight = metric_weight
        channels = encoder.num_features
        cells, _ = encoder.map_size(self.crop_size)
        self.decoder = Decoder(channels, decoder_dim, cells, self.crop_size)
        self.reason = BipartiteReasoning(channels, decoder_dim)
        self.attend = nn.Conv2d(3, channels, 1)
        self.classifier = nn.Linear(channels, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RECCE:
        """From ``MODEL.FACE.RECCE``."""
        keys = cfg.MODEL.FACE.RECCE
        return cls(
            **cls.settings(cfg),
            decoder_dim=keys.DECODER_DIM,
            noise=keys.NOISE,
            reconstruction_weight=keys.RECONSTRUCTION_WEIGHT,
            metric_weight=keys.METRIC_WEIGHT,
        )

    def feature_map(self, crops: Tensor) -> Tensor:
        """[N, C, h, w] of crops [N, 3, S, S] on the 0-255 scale."""
        return self._reconstructed(self.preprocess(crops))[0]

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def _reconstructed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The map that is classified, the encoder's own, and the reconstruction of x."""
        noisy = x + self.noise * torch.randn_like(x) if self.training and self.noise else x
        encoded = self.encoder.forward_map(noisy)
        decoded, picture = self.decoder(encoded)
        picture = functional.interpolate(
            picture, size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        cells = (encoded.shape[-2], encoded.shape[-1])
        difference = functional.adaptive_avg_pool2d((x - picture).abs(), cells)
        attention = self.attend(difference).sigmoid()
        reasoned = self.reason(encoded, decoded)
        return reasoned + attention * reasoned, encoded, picture

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``L_ce + l1 L_reconstruction + l2 L_metric`` (eq. 7); only reals are reconstructed."""
        x = self.preprocess(batch.images)
        feature_map, encoded, picture = self._reconstructed(x)
        real = batch.labels == REAL
        with full_precision(x):
            error = mean_or_zero((picture[real].float() - x[real].float()).abs())
            metric = metric_loss(self.encoder.pool(encoded).float(), batch.labels)
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(self.map_logits(feature_map), batch.labels),
                "loss_reconstruction": self.reconstruction_weight * error,
                "loss_metric": self.metric_weight * metric,
            }
        )

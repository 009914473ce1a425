"""F3-Net: frequency-aware decomposition beside local frequency statistics.

docs/methods.md#competitors-f3-net. Shape letters: N crops; C channels; S side of a crop; h, w of
the map.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.cross_attention import CrossAttention
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.frequency_bands import PARTS, BandPictures, BandStatistics
from comics.modeling.faces.layers import binary_cross_entropy
from comics.modeling.faces.stems import RGB, load_widened, widen_stem
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch

BAND_CHANNELS = RGB * len(PARTS)


@FACE_METHODS.register()
class F3Net(FaceMethod):
    """Cross-entropy on the joined maps of two streams of frequency.

    One sees the picture's four frequency components (FAD), the other local band statistics (LFS);
    cross attention joins them. ``feature_map`` is the joined one, of 2 C channels. Crops must be
    of ``crop_size``, which the components are for.

    Args:
        window, stride, bands: of the statistics, see ``BandStatistics``.
        encoder: of the first stream, copied for the other; see ``FaceMethod``, as further
            keyword arguments.

    Raises:
        ValueError: if there are fewer than three bands.
    """

    crop_size = 299

    def __init__(
        self, encoder: Encoder, *, window: int, stride: int, bands: int, **shared: Any
    ) -> None:
        if bands < RGB:
            raise ValueError(f"F3_NET.BANDS must be {RGB} or more, got {bands}")
        other = widen_stem(copy.deepcopy(encoder), bands)
        super().__init__(widen_stem(encoder, BAND_CHANNELS), **shared)
        self.bands = bands
        channels = encoder.num_features
        self.statistics_encoder = other
        self.components = BandPictures(self.crop_size)
        self.statistics = BandStatistics(window, stride, bands)
        self.attention = CrossAttention(channels)
        self.classifier = nn.Linear(2 * channels, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> F3Net:
        """From ``MODEL.FACE.F3_NET``."""
        keys = cfg.MODEL.FACE.F3_NET
        return cls(**cls.settings(cfg), window=keys.WINDOW, stride=keys.STRIDE, bands=keys.BANDS)

    def encoders(self) -> list[Encoder]:
        """That of the components, and that of the statistics."""
        return [self.encoder, self.statistics_encoder]

    def load_encoder_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """As ``FaceMethod``, of an encoder of colours, for both."""
        load_widened(self.encoder, state, source, BAND_CHANNELS)
        load_widened(self.statistics_encoder, state, source, self.bands)

    def feature_map(self, crops: Tensor) -> Tensor:
        """[N, 2 C, h, w] of crops [N, 3, S, S] on the 0-255 scale.

        Raises:
            ValueError: for crops of another size than ``crop_size``.
        """
        x = self.preprocess(crops)
        if x.shape[-2:] != (self.crop_size, self.crop_size):
            raise ValueError(
                f"F3Net was made for crops of {self.crop_size} pixels, got {tuple(x.shape[-2:])}"
            )
        statistics = functional.interpolate(
            self.statistics(x), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        pair = self.attention(
            self.encoder.forward_map(self.components(x)),
            self.statistics_encoder.forward_map(statistics),
        )
        return torch.cat(pair, dim=1)

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, 2 C, h, w]."""
        return self.classifier(feature_map.mean(dim=(2, 3))).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of all images."""
        logits = self.map_logits(self.feature_map(batch.images))
        return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, batch.labels)})

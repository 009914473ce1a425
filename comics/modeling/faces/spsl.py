"""SPSL, spatial-phase shallow learning: docs/methods.md#competitors-spsl.

Up-sampling leaves traces in the phase spectrum; local texture is seen by a shallow network.
Shape letters: N crops; C channels; S side of a crop; h, w of the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder, TimmEncoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.modeling.faces.stems import RGB, load_widened, widen_stem
from comics.registry import ENCODERS, FACE_METHODS
from comics.structures import FaceBatch

SMALLEST = 1e-6  # below this magnitude a frequency has no phase
MIDDLE_BLOCKS = tuple(f"block{number}" for number in range(4, 12))  # of Xception


def phase_picture(crops: Tensor) -> Tensor:
    """What is left of a picture whose frequencies all have magnitude 1: [N, 1, S, S] float32.

    The inverse transform of ``F / |F|``, F the spectrum of the mean colour, scaled so that its
    mean square is 1 where no frequency is absent.

    Args:
        crops: [N, 3, S, S] of any type.
    """
    with full_precision(crops):
        spectrum = torch.fft.rfft2(crops.float().mean(dim=1, keepdim=True), norm="ortho")
        phases = spectrum / spectrum.abs().clamp(min=SMALLEST)
        return torch.fft.irfft2(phases, s=crops.shape[-2:], norm="ortho")


@ENCODERS.register()
class ShallowXception(TimmEncoder):
    """Xception without its middle flow, blocks 4 to 11 (the paper's shallow network).

    Starts from the weights of timm's "legacy_xception".
    """

    def __init__(self) -> None:
        super().__init__("legacy_xception")
        for name in MIDDLE_BLOCKS:
            setattr(self.model, name, nn.Identity())
        self.optional_weights = (*self.optional_weights, *(f"{b}." for b in MIDDLE_BLOCKS))


@FACE_METHODS.register()
class SPSL(FaceMethod):
    """Cross-entropy on colours and the phase picture, four channels together."""

    crop_size = 299

    def __init__(self, encoder: Encoder, **shared: Any) -> None:
        super().__init__(widen_stem(encoder, RGB + 1), **shared)
        self.classifier = nn.Linear(encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SPSL:
        """From ``MODEL.FACE``: it has no keys of its own."""
        return cls(**cls.settings(cfg))

    def load_encoder_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """As ``FaceMethod``, of an encoder of colours alone."""
        load_widened(self.encoder, state, source, RGB + 1)

    def preprocess(self, crops: Tensor) -> Tensor:
        """[N, 4, S, S]: normalised colours, and the phase picture."""
        colours = super().preprocess(crops)
        return torch.cat([colours, phase_picture(crops).to(colours)], dim=1)

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of all images."""
        logits = self.map_logits(self.feature_map(batch.images))
        return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, batch.labels)})

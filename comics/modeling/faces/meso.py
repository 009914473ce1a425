"""Meso-4 and MesoInception-4: small networks for the mesoscopic traits of forgeries.

docs/methods.md#competitors-meso. Both networks are encoders, usable by every face method; the
method ``Meso`` has their classifier. Shape letters: N crops; C channels; S side of a crop; h, w of
the map, S / 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy
from comics.modeling.weights import load_state
from comics.registry import ENCODERS, FACE_METHODS
from comics.structures import FaceBatch

CHANNELS = 16  # of the last map
LEAK = 0.1  # slope of the classifier's leaky ReLU (public code)


def _block(inputs: int, outputs: int, kernel: int, pool: int) -> list[nn.Module]:
    """Convolution, ReLU, normalisation, pooling: the order of the public code."""
    return [
        nn.Conv2d(inputs, outputs, kernel, padding="same"),
        nn.ReLU(),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(pool),
    ]


class Inception(nn.Module):
    """Four branches, whose outputs are joined: 1x1; 3x3 with dilation 1, 2 and 3 behind a 1x1.

    Args:
        inputs: channels.
        widths: outputs of each branch.
    """

    def __init__(self, inputs: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        branches: list[nn.Module] = [nn.Sequential(nn.Conv2d(inputs, widths[0], 1), nn.ReLU())]
        for dilation, width in enumerate(widths[1:], 1):
            wide = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
            branches.append(nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(), wide, nn.ReLU()))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, sum of widths, h, w]."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class _MesoEncoder(Encoder):
    """What the two share: pixels in [0, 1], a last map of 16 channels and S / 32 cells a side."""

    num_features = CHANNELS
    pixel_mean = (0.0, 0.0, 0.0)
    pixel_std = (255.0, 255.0, 255.0)
    layers: nn.Sequential

    def forward_map(self, x: Tensor) -> Tensor:
        """Feature map [N, 16, S / 32, S / 32] of normalised crops [N, 3, S, S]."""
        return self.layers(x)

    def load_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict of this encoder; raises ``ValueError`` as ``Encoder.load_weights``."""
        load_state(self, state, source)


@ENCODERS.register()
class Meso4(_MesoEncoder):
    """Four convolutions with pooling (Figure 4 of the paper); 27977 parameters with ``Meso``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(3, 8, 3, 2), *_block(8, 8, 5, 2), *_block(8, 16, 5, 2), *_block(16, 16, 5, 4)
        )


@ENCODERS.register()
class MesoInception4(_MesoEncoder):
    """Meso-4 with inception modules in the place of its first two convolutions (Figure 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Inception(3, (1, 4, 4, 2)),
            nn.BatchNorm2d(11),
            nn.MaxPool2d(2),
            Inception(11, (2, 4, 4, 2)),
            nn.BatchNorm2d(12),
            nn.MaxPool2d(2),
            *_block(12, 16, 5, 2),
            *_block(16, 16, 5, 4),
        )


@FACE_METHODS.register()
class Meso(FaceMethod):
    """Cross-entropy with the papers' classifier: the whole map, dropout, two linear layers.

    Args:
        hidden_dim: between the two layers.
        dropout: before each of them.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    crop_size = 256

    def __init__(self, encoder: Encoder, *, hidden_dim: int, dropout: float, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        height, width = encoder.map_size(self.crop_size)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(encoder.num_features * height * width, hidden_dim),
            nn.LeakyReLU(LEAK),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, 1),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Meso:
        """From ``MODEL.FACE.MESO``."""
        keys = cfg.MODEL.FACE.MESO
        return cls(**cls.settings(cfg), hidden_dim=keys.HIDDEN_DIM, dropout=keys.DROPOUT)

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(feature_map).flatten()

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of all images."""
        logits = self.map_logits(self.feature_map(batch.images))
        return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, batch.labels)})

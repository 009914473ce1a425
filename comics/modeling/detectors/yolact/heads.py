"""YOLACT's two branches (Bolya et al. 2019, arXiv:1904.02689, section 3): prototypes of the whole
image, and for each anchor a class, a box and one coefficient per prototype.

Shape letters: B images; C channels; K classes; A anchors per cell; D prototypes; h, w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode

BOX = 4  # numbers of a box
ENLARGEMENT = 2  # of the prototypes, over the level that they are made from


@dataclass(frozen=True)
class AnchorPredictions:
    """Predictions per level, finest first, all float32.

    Attributes:
        class_logits: [B, A (K + 1), h, w] each, background last.
        deltas: [B, 4 A, h, w] each.
        coefficients: [B, D A, h, w] each, in (-1, 1).
    """

    class_logits: list[Tensor]
    deltas: list[Tensor]
    coefficients: list[Tensor]


class PredictionHead(nn.Module):
    """One shared convolution, then three predictors; the same for every level (figure 4).

    Args:
        in_channels: C.
        num_classes: K.
        per_cell: A.
        num_prototypes: D.
    """

    def __init__(
        self, in_channels: int, *, num_classes: int, per_cell: int, num_prototypes: int
    ) -> None:
        super().__init__()
        self.shared = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.class_logits = nn.Conv2d(in_channels, per_cell * (num_classes + 1), 3, padding=1)
        self.deltas = nn.Conv2d(in_channels, per_cell * BOX, 3, padding=1)
        self.coefficients = nn.Conv2d(in_channels, per_cell * num_prototypes, 3, padding=1)
        initialise_xavier(self)

    def forward(self, features: Sequence[Tensor]) -> AnchorPredictions:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = AnchorPredictions([], [], [])
        for feature in features:
            shared = functional.relu(self.shared(feature))
            output.class_logits.append(self.class_logits(shared).float())
            output.deltas.append(self.deltas(shared).float())
            output.coefficients.append(torch.tanh(self.coefficients(shared).float()))
        return output


class PrototypeNet(nn.Module):
    """Prototypes from the finest level (section 3.1, figure 3).

    Args:
        in_channels: C.
        num_prototypes: D.
        channels, num_convs: of the 3x3 convolutions before the doubling; one more follows it.
    """

    def __init__(
        self, in_channels: int, *, num_prototypes: int, channels: int = 256, num_convs: int = 3
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * num_convs
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.prototypes = nn.Conv2d(channels, num_prototypes, 1)
        initialise_xavier(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> PrototypeNet:
        """From ``MODEL.YOLACT``."""
        node = cfg.MODEL.YOLACT
        return cls(
            in_channels,
            num_prototypes=node.NUM_PROTOTYPES,
            channels=node.PROTOTYPE_CHANNELS,
            num_convs=node.NUM_PROTOTYPE_CONVS,
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] to prototypes [B, D, 2 h, 2 w] >= 0, float32, and the map that they are read
        from [B, C', 2 h, 2 w].
        """
        x = feature
        for conv in self.convs:
            x = functional.relu(conv(x))
        x = functional.interpolate(
            x, scale_factor=ENLARGEMENT, mode="bilinear", align_corners=False
        )
        last = functional.relu(self.last(functional.relu(x)))
        return functional.relu(self.prototypes(last).float()), last


def initialise_xavier(module: nn.Module) -> None:
    """Glorot's uniform weights and zero biases for every convolution, as the authors'."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

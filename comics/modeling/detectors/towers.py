"""Towers of 3x3 convolutions that dense heads run over every level of a pyramid.

Normalisation and deformable convolutions as in AdelaiDet.

Shape letters: B images; C channels; h, w of a level.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from comics.modeling.layers import DeformableConv, make_norm

PREDICTION_STD = 0.01  # of the initial weights of towers and predictors
PER_LEVEL_NORMS = ("BN", "SyncBN")  # their statistics differ between levels


@dataclass(frozen=True)
class DeformableTowers:
    """Which convolutions of the towers are deformable.

    Attributes:
        kind: "DCNv1" or "DCNv2".
        last_only: the last of each tower; else all of them.
        shared: in the shared tower as well.
        bias: give these convolutions a bias.
    """

    kind: str = "DCNv2"
    last_only: bool = True
    shared: bool = False
    bias: bool = True


class TowerBlock(nn.Module):
    """3x3 convolution, normalisation, ReLU; batch norms are one per level.

    The convolution has a bias; a deformable one where ``deformable`` says so.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: str,
        num_levels: int,
        deformable: DeformableTowers | None = None,
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        if deformable is None:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        else:
            self.conv = DeformableConv(
                channels, channels, kind=deformable.kind, bias=deformable.bias
            )
        self.norm: nn.Module | None
        if norm in PER_LEVEL_NORMS:
            norms = [make_norm(norm, channels) for _ in range(num_levels)]
            self.norm = nn.ModuleList(one for one in norms if one is not None)
        else:
            self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """[B, C, h, w] of that level to the same shape."""
        x = self.conv(x)
        norm = self.norm[level] if isinstance(self.norm, nn.ModuleList) else self.norm
        return functional.relu_(x if norm is None else norm(x))


def make_tower(
    channels: int,
    depth: int,
    *,
    norm: str,
    num_levels: int,
    deformable: DeformableTowers | None = None,
) -> nn.ModuleList:
    """``depth`` blocks of the same width, all or the last of them deformable if asked for."""
    first = 0 if deformable is None or not deformable.last_only else depth - 1
    return nn.ModuleList(
        TowerBlock(
            channels,
            norm=norm,
            num_levels=num_levels,
            deformable=deformable if index >= first else None,
        )
        for index in range(depth)
    )


def initialise_convs(module: nn.Module) -> None:
    """Small normal weights and zero biases for every convolution; offsets of 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=PREDICTION_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, DeformableConv):
            part.reset_offsets()


def run_tower(tower: nn.ModuleList, x: Tensor, level: int) -> Tensor:
    """[B, C, h, w] of that level through the blocks of a tower."""
    for block in tower:
        x = block(x, level)
    return x

"""SOLO's head (Wang et al. 2020, arXiv:1912.04488, sections 3.2 and 3.4).

Every level has a grid of S x S cells. One branch gives each cell a class, the other gives each cell
a mask of the whole image: channel k of its last convolution belongs to cell k. That convolution is
1x1, so masks are computed for the cells that are asked for only: the same numbers as all S^2 maps
of which a few are read.

Shape letters: B images; C channels; K classes; S side of a level's grid; h, w of a level; N cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.detectors.solov2 import (
    check_norm,
    conv_tower,
    even_scales,
    initialise_small,
    resize_map,
    with_coordinates,
)
from comics.modeling.layers import fill_bias

COORDINATES = 2  # channels: x, y
ENLARGEMENT = 2  # of the mask branch's map, before its last convolution


@dataclass(frozen=True)
class SOLOOutput:
    """Predictions per level, finest first, all float32.

    Attributes:
        class_logits: [B, K, S, S] each.
        mask_maps: [B, C, 2 h, 2 w] each, what the masks of cells are read from, where h, w are
            those of the levels made even (``even_scales``).
    """

    class_logits: list[Tensor]
    mask_maps: list[Tensor]


class MaskCells(nn.Module):
    """The last convolution of the mask branch of one level.

    Args:
        channels: C.
        grid: S.
        decoupled: S maps of rows and S of columns, of which a cell's mask is the product
            (section 3.4), instead of a map for each cell.
    """

    def __init__(self, channels: int, grid: int, *, decoupled: bool) -> None:
        super().__init__()
        self.grid = grid
        self.rows: nn.Conv2d | None = None
        self.columns: nn.Conv2d | None = None
        self.cells: nn.Conv2d | None = None
        if decoupled:
            self.rows = nn.Conv2d(channels, grid, 1)
            self.columns = nn.Conv2d(channels, grid, 1)
        else:
            self.cells = nn.Conv2d(channels, grid * grid, 1)

    def forward(self, mask_map: Tensor, cell: Tensor) -> Tensor:
        """Soft masks [N, h * w] in [0, 1] of cells [N] (row * S + column), of one image's map
        [C, h, w]; in float32.
        """
        flat = mask_map.float().flatten(1)
        if self.cells is not None:
            return _read(self.cells, cell, flat)
        rows, columns = cast(nn.Conv2d, self.rows), cast(nn.Conv2d, self.columns)
        return _read(rows, cell // self.grid, flat) * _read(columns, cell % self.grid, flat)


def _read(conv: nn.Conv2d, channel: Tensor, flat: Tensor) -> Tensor:
    """Probabilities [N, cells] of output channels [N] of a 1x1 convolution of [C, cells]."""
    bias = cast(Tensor, conv.bias)
    return (conv.weight.flatten(1)[channel] @ flat + bias[channel, None]).sigmoid()


class SOLOHead(nn.Module):
    """Classes and masks of every grid cell; towers are the same for every level.

    Args:
        in_channels: C of the pyramid.
        num_classes: K.
        grids: S of each level.
        channels, num_convs: width and depth of both towers.
        norm: of the towers, "GN" or "none".
        prior: initial probability of a class in a cell, in (0, 1).
        decoupled: see ``MaskCells``.

    Raises:
        ValueError: for an unknown norm or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        grids: Sequence[int] = (40, 36, 24, 16, 12),
        channels: int = 256,
        num_convs: int = 7,
        norm: str = "GN",
        prior: float = 0.01,
        decoupled: bool = False,
    ) -> None:
        super().__init__()
        check_norm(norm, "SOLO")
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.SOLO.PRIOR_PROB must lie in (0, 1), got {prior}")
        self.grids = tuple(grids)
        self.class_tower = conv_tower(in_channels, channels, num_convs, norm)
        self.mask_tower = conv_tower(in_channels + COORDINATES, channels, num_convs, norm)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.masks = nn.ModuleList(
            MaskCells(channels, grid, decoupled=decoupled) for grid in self.grids
        )
        initialise_small(self)
        fill_bias(self.class_logits, -math.log((1 - prior) / prior))

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> SOLOHead:
        """From ``MODEL.SOLO``."""
        node = cfg.MODEL.SOLO
        return cls(
            in_channels,
            num_classes=node.NUM_CLASSES,
            grids=node.NUM_GRIDS,
            channels=node.CHANNELS,
            num_convs=node.NUM_CONVS,
            norm=node.NORM,
            prior=node.PRIOR_PROB,
            decoupled=node.DECOUPLED,
        )

    def forward(self, features: Sequence[Tensor]) -> SOLOOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = SOLOOutput([], [])
        for feature, grid in zip(even_scales(features), self.grids, strict=True):
            cells = self.class_tower(resize_map(feature, (grid, grid)))
            output.class_logits.append(self.class_logits(cells).float())
            mask_map = self.mask_tower(with_coordinates(feature))
            size = (ENLARGEMENT * mask_map.shape[-2], ENLARGEMENT * mask_map.shape[-1])
            output.mask_maps.append(resize_map(mask_map, size).float())
        return output


def map_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """Pixels per cell of each level's mask map, from those of the pyramid's levels."""
    even = (2 * strides[0], *strides[1:-1], strides[-2])
    return tuple(stride // ENLARGEMENT for stride in even)

"""Cells of a pyramid's levels: the points they stand for, and reading maps at a few of them.

A cell is named by its level, its image and row * width + column. Dense predictors that are wide
(attention, filters, mask codes) are evaluated only at the cells that have a face.

Shape letters: B images; C, O channels; h, w of a level; P cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.ops.transfers import on_device


def level_locations(
    height: int, width: int, stride: int, device: torch.device | str | None = None
) -> Tensor:
    """[height * width, 2] (x, y) pixels that the cells of a level stand for, row-major.

    Cell (i, j) stands for (j * stride + stride // 2, i * stride + stride // 2).
    """
    y = torch.arange(height, device=device, dtype=torch.float32) * stride + stride // 2
    x = torch.arange(width, device=device, dtype=torch.float32) * stride + stride // 2
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x.flatten(), grid_y.flatten()), dim=1)


def points_of_cells(
    level: Tensor, cell: Tensor, widths: Sequence[int], strides: Sequence[int]
) -> Tensor:
    """[P, 2] (x, y) pixels that cells of several levels stand for, float32.

    Args:
        level, cell: [P] int64.
        widths: w of each level.
        strides: pixels per cell of each level.
    """
    width, stride = on_device([list(widths), list(strides)], cell.device)[:, level]
    index = torch.stack((cell % width, cell // width), dim=1)
    return (index * stride[:, None] + stride[:, None] // 2).float()


def boxes_at_cells(distances: Tensor, cell: Tensor, map_size: Sequence[int], stride: int) -> Tensor:
    """Boxes [..., 4] in pixels from distances [..., 4] in strides, predicted at cells [...]."""
    height, width = map_size
    points = level_locations(height, width, stride, cell.device)[cell]
    reach = distances * stride
    return torch.cat((points - reach[..., :2], points + reach[..., 2:]), dim=-1)


def image_of_each(groups: Sequence[Tensor]) -> Tensor:
    """[P] int64: position of the image that each row belongs to.

    Args:
        groups: per image [P_i, ...]; at least one image.
    """
    counts = [len(group) for group in groups]
    return on_device(np.repeat(np.arange(len(groups)), counts), groups[0].device)


def counts_of(numbers: Tensor, count: int) -> list[int]:
    """How often each of 0 .. ``count`` - 1 is among [P] int64; waits for the device, once."""
    return (numbers[:, None] == torch.arange(count, device=numbers.device)).sum(dim=0).tolist()


def by_level(
    level: Tensor,
    count: int,
    read: Callable[[int, Tensor], Tensor],
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """[P, ...] gathered level by level, in the order of ``level`` [P].

    Args:
        level: [P] int64 below ``count``.
        count: of levels.
        read: (level, positions [p] of its rows) -> [p, ...].
        sizes: rows of each level, where they are known; otherwise the device is waited for.
    """
    order = level.argsort(stable=True)
    rows = order.split(counts_of(level, count) if sizes is None else list(sizes))
    gathered = torch.cat([read(index, part) for index, part in enumerate(rows)])
    return gathered[order.argsort()]


def values_at_cells(
    maps: Sequence[Tensor],
    level: Tensor,
    image: Tensor,
    cell: Tensor,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """[P, C] of per-level maps [B, C, h, w] at cells: [P] level, image and cell each.

    ``sizes`` as of ``by_level``.
    """

    def read(index: int, rows: Tensor) -> Tensor:
        return maps[index].flatten(2)[image[rows], :, cell[rows]]

    return by_level(level, len(maps), read, sizes)


def conv3x3_at_cells(
    conv: nn.Conv2d,
    maps: Sequence[Tensor],
    level: Tensor,
    image: Tensor,
    cell: Tensor,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Output of a 3x3 convolution (stride 1, padding 1) at a few cells of several maps.

    Same arithmetic as ``conv(maps[l])`` read at the cells, without computing the other cells.

    Args:
        conv: C to O channels.
        maps: per level [B, C, h_l, w_l].
        level, image, cell: [P] int64; cell = row * w_l + column.
        sizes: as of ``by_level``.

    Returns:
        [P, O].
    """
    offsets = torch.arange(3, device=cell.device)

    def read(index: int, chosen: Tensor) -> Tensor:
        width = maps[index].shape[-1]
        rows = (cell[chosen] // width)[:, None, None] + offsets[:, None]
        columns = (cell[chosen] % width)[:, None, None] + offsets
        padded = functional.pad(maps[index], (1, 1, 1, 1)).permute(0, 2, 3, 1)
        return padded[image[chosen][:, None, None], rows, columns]

    gathered = by_level(level, len(maps), read, sizes).permute(0, 3, 1, 2).flatten(1)
    return functional.linear(gathered, conv.weight.flatten(1), conv.bias)

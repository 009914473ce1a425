"""From soft masks on a small grid of their own to bitmaps, each computed only where it has pixels.

A mask of a face covers little of a photo, so it is made as a part: a small bitmap and its place.
Two kinds of grid: one that fills a box (``comics.ops.roi_masks``), and one of the whole image,
here; polygons as well.

Shape letters: N masks; h, w grid of the whole image; V corners of a polygon; H, W image that the
masks are drawn in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from comics.ops.transfers import on_device
from comics.ops.upsampling import aligned_upsample


@dataclass(frozen=True)
class MaskPart:
    """Where a mask may have pixels, and which.

    Attributes:
        top, left: row and column of the part's first pixel.
        bitmap: [rows, columns] bool; may be empty.
    """

    top: int
    left: int
    bitmap: Tensor


def draw_parts(
    parts: Sequence[MaskPart], image_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """[N, H, W] bool masks of N parts."""
    canvas = torch.zeros((len(parts), *image_size), dtype=torch.bool, device=device)
    for mask, part in zip(canvas, parts, strict=True):
        put_part(mask, part)
    return canvas


def put_part(mask: Tensor, part: MaskPart, top: int = 0, left: int = 0) -> None:
    """Copy a part into a mask [H, W], ``top`` and ``left`` pixels further down and right."""
    height, width = part.bitmap.shape
    top, left = part.top + top, part.left + left
    mask[top : top + height, left : left + width] = part.bitmap


def part_boxes(parts: Sequence[MaskPart], device: torch.device | str = "cpu") -> Tensor:
    """Tight boxes of N parts, edges exclusive: [N, 4] float; without area where a mask is empty."""
    boxes = torch.zeros((len(parts), 4), device=device)
    for box, part in zip(boxes, parts, strict=True):
        if part.bitmap.numel():
            place = on_device([part.left, part.top] * 2, box.device, box.dtype)
            box.copy_(mask_boxes(part.bitmap[None])[0] + place)
    return boxes


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks [N, H, W] bool, edges exclusive: [N, 4] float; zeros where empty."""
    if not masks.numel():
        return torch.zeros((len(masks), 4), device=masks.device)
    rows, columns = masks.any(dim=2).int(), masks.any(dim=1).int()
    sides = (  # of equal values argmax takes the first
        columns.argmax(dim=1),
        rows.argmax(dim=1),
        masks.shape[2] - columns.flip(1).argmax(dim=1),
        masks.shape[1] - rows.flip(1).argmax(dim=1),
    )
    return torch.stack(sides, dim=1) * rows.amax(dim=1, keepdim=True).float()


def grid_parts(
    soft: Tensor,
    *,
    stride: int,
    size: tuple[int, int],
    output_size: tuple[int, int],
    aligned: bool,
    threshold: float = 0.5,
) -> list[MaskPart]:
    """Soft masks on a grid of the padded input, as masks of the output.

    Enlarged bilinearly to the input's pixels, cut to ``size``, resized bilinearly (not
    corner-aligned) to the output, thresholded. All of it but the threshold is linear and acts on
    rows and columns apart, so each mask is two matrix products, and only for the pixels that its
    cells above the threshold reach: elsewhere means of cells cannot be above it.

    Args:
        soft: [N, h, w] in [0, 1].
        stride: pixels of the input per cell.
        size: (height, width) of the input before padding.
        output_size: (H, W).
        aligned: a cell stands for pixel ``stride * i + stride // 2`` (``aligned_upsample``,
            CondInst); False: for the middle of its block of pixels (SOLOv2).
        threshold: a pixel is set above it, in [0, 1).
    """
    with torch.autocast(soft.device.type, enabled=False):
        soft = soft.float()
        row_weights, column_weights = (
            _axis_weights(cells, stride, inner, outer, aligned, soft.device)
            for cells, inner, outer in zip(soft.shape[1:], size, output_size, strict=True)
        )
        covered = soft > threshold
        rows = _windows(covered.any(dim=2), row_weights)
        columns = _windows(covered.any(dim=1), column_weights)
        parts = []
        for cells, y, x in zip(soft, rows.tolist(), columns.tolist(), strict=True):
            vertical = row_weights[y[0] : y[1], y[2] : y[3]]
            horizontal = column_weights[x[0] : x[1], x[2] : x[3]]
            smooth = vertical @ cells[y[2] : y[3], x[2] : x[3]] @ horizontal.T
            parts.append(MaskPart(y[0], x[0], smooth > threshold))
        return parts


def polygon_parts(points: Tensor, image_size: tuple[int, int]) -> list[MaskPart]:
    """The insides of polygons: pixels whose centres have an odd number of edges to their right.

    Args:
        points: [N, V, 2] (x, y) pixels, in order; may lie outside the image.
        image_size: (H, W).
    """
    return [_polygon_part(one.double(), image_size) for one in points]


def _polygon_part(points: Tensor, image_size: tuple[int, int]) -> MaskPart:
    """Of one polygon [V, 2]."""
    height, width = image_size
    left, top = points.amin(dim=0).floor().clamp(min=0).int().tolist()
    right, bottom = points.amax(dim=0).ceil().int().tolist()
    right, bottom = min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return MaskPart(0, 0, torch.zeros((0, 0), dtype=torch.bool, device=points.device))
    following = points.roll(-1, dims=0)
    (x, y), (next_x, next_y) = points.T, following.T
    centre = torch.arange(top, bottom, device=points.device)[:, None] + 0.5  # [rows, 1]
    crosses = (y > centre) != (next_y > centre)  # [rows, V]
    rise = torch.where(next_y == y, 1.0, next_y - y)
    where = x + (next_x - x) * (centre - y) / rise
    # How many of the part's pixels have their centres to the left of each crossing
    passed = (where - left - 0.5).ceil().clamp(0, right - left).long()
    counts = torch.zeros(bottom - top, right - left + 1, device=points.device, dtype=torch.long)
    counts.scatter_add_(1, passed, crosses.long())
    beyond = counts.flip(1).cumsum(dim=1).flip(1)[:, 1:]  # crossings to the right of each pixel
    return MaskPart(top, left, beyond % 2 == 1)


def _axis_weights(
    cells: int, stride: int, inner: int, outer: int, aligned: bool, device: torch.device
) -> Tensor:
    """[outer, cells]: how much of each cell an output pixel takes, along one axis."""
    impulses = torch.eye(cells, device=device)[:, None]  # a cell a row
    if aligned:
        fine = aligned_upsample(impulses[..., None], stride)[..., 0]
    else:
        fine = functional.interpolate(
            impulses, scale_factor=stride, mode="linear", align_corners=False
        )
    fine = fine[..., :inner]
    return functional.interpolate(fine, size=outer, mode="linear", align_corners=False)[:, 0].T


def _windows(covered: Tensor, weights: Tensor) -> Tensor:
    """Which output pixels take anything of covered cells, and which cells those pixels take.

    Args:
        covered: [N, cells] bool, along one axis.
        weights: [output pixels, cells], as ``_axis_weights`` gives them.

    Returns:
        [N, 4] int64: first pixel, end of the pixels, first cell, end of the cells; a mask without
        covered cells has no pixels.
    """
    takes = weights > 0
    reached = covered.float() @ takes.float().T > 0
    count, cells = takes.shape
    pixels = torch.arange(count, device=covered.device)
    end = torch.where(reached, pixels + 1, 0).amax(dim=1)
    first = torch.minimum(torch.where(reached, pixels, count).amin(dim=1), end)
    first_cell = takes.int().argmax(dim=1)
    end_cell = cells - takes.flip(1).int().argmax(dim=1)
    lowest, highest = first.clamp(max=count - 1), (end - 1).clamp(min=0)
    return torch.stack((first, end, first_cell[lowest], end_cell[highest]), dim=1)

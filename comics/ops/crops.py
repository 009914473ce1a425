"""Windows around the faces of an image, and square crops of them on whatever device the image is.

Square crops have the windows and the resampling of the data pipeline's (whole pixels; area average
where a crop shrinks, bilinear where it grows), so that a face method sees at inference what it was
trained on.

Shape letters: N boxes; H, W height and width of the image; S side of a crop; L side of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from comics.ops.boxes import clip_boxes
from comics.ops.transfers import on_device

BORDERS = ("replicate", "reflect")
MIN_SIDE = 1.0  # pixels; a box that is clipped to less still gets a crop


def margin_window(
    box: Sequence[float], image_size: tuple[int, int], margin: float
) -> tuple[int, int, int, int]:
    """The part of an image that shows a face with some of its surroundings.

    Args:
        box: (x0, y0, x1, y1) in pixels; may reach outside the image.
        image_size: (H, W).
        margin: on each side, as a share of the box's longer side.

    Returns:
        (left, top, right, bottom) of whole pixels inside the image, a pixel wide and high at least.
    """
    height, width = image_size
    border = margin * max(box[2] - box[0], box[3] - box[1])
    left = min(max(0, math.floor(box[0] - border)), width - 1)
    top = min(max(0, math.floor(box[1] - border)), height - 1)
    right = max(left + 1, min(width, math.ceil(box[2] + border)))
    bottom = max(top + 1, min(height, math.ceil(box[3] + border)))
    return left, top, right, bottom


def square_windows(boxes: Tensor, margin: float, grid: float = 0.0) -> Tensor:
    """The squares of whole pixels around the boxes' centres; they may reach outside the image.

    The side is a box's longer side times ``1 + 2 * margin``, rounded half up. With a grid it is
    first brought to the nearest power of ``1 + grid``, and the centre to the nearest multiple of
    ``grid`` times that side, so that boxes which differ by less than a step mostly share a square.

    Args:
        boxes: [N, 4] with positive width and height.
        margin: added on each side, as a share of the longer side, >= 0.
        grid: a step, as a share of the side, >= 0; 0: whole pixels alone.

    Returns:
        [N, 4] int64 (left, top, right, bottom).
    """
    x0, y0, x1, y1 = boxes.double().unbind(-1)
    side = torch.maximum(x1 - x0, y1 - y0) * (1 + 2 * margin)
    across, down = x0 + x1, y0 + y1  # twice the centre
    if grid:
        base = math.log1p(grid)
        side = torch.exp(_nearest(side.log() / base) * base)
        step = 2 * grid * side
        across, down = _nearest(across / step) * step, _nearest(down / step) * step
    side = _nearest(side).clamp(min=1)
    left, top = _nearest((across - side) / 2), _nearest((down - side) / 2)
    return torch.stack((left, top, left + side, top + side), dim=-1).long()


def _nearest(values: Tensor) -> Tensor:
    """Rounded half up."""
    return (values + 0.5).floor()


def crop_faces(
    image: Tensor,
    boxes: Tensor,
    size: int,
    margin: float,
    border: str = "replicate",
    grid: float = 0.0,
) -> Tensor:
    """Crops of boxes, cut at the image's own resolution and resized.

    Boxes are clipped to the image first; one that is left without area counts as one pixel.

    Args:
        image: [3, H, W] uint8 or float, 0-255.
        boxes: [N, 4] pixels.
        size: S.
        margin, grid: see ``square_windows``.
        border: what is outside the image: "replicate" repeats its outermost pixels, "reflect"
            mirrors it about them.

    Returns:
        [N, 3, S, S] float32, whole numbers 0-255.

    Raises:
        ValueError: for another border.
    """
    size_of_image = (image.shape[-2], image.shape[-1])
    windows = square_windows(usable_boxes(boxes, size_of_image), margin, grid)
    return crop_windows(image, windows, size, border)


def crop_windows(image: Tensor, windows: Tensor, size: int, border: str = "replicate") -> Tensor:
    """Windows cut at the image's own resolution and resized.

    Args:
        image, size, border: as of ``crop_faces``.
        windows: [N, 4] int64 (left, top, right, bottom), squares with a pixel at least.

    Returns:
        [N, 3, S, S] float32, whole numbers 0-255.

    Raises:
        ValueError: for another border.
    """
    if border not in BORDERS:
        raise ValueError(f"a border is one of {', '.join(BORDERS)}, not {border!r}")
    height, width = image.shape[-2:]
    crops = torch.empty((len(windows), 3, size, size), device=image.device)
    for crop, (left, top, right, bottom) in zip(crops, windows.tolist(), strict=True):
        rows = _inside(top, bottom, height, border, image.device)
        columns = _inside(left, right, width, border, image.device)
        cut = image.index_select(1, rows).index_select(2, columns).float()
        weights = _resampling(right - left, size, image.device)
        crop.copy_((weights @ cut @ weights.T).round())
    return crops


def usable_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] clipped to an image of (H, W), and at least one pixel wide and high there."""
    clipped = clip_boxes(boxes, image_size)
    limit = on_device([image_size[1], image_size[0]], boxes.device, boxes.dtype)
    low = torch.minimum(clipped[:, :2], limit - MIN_SIDE)
    return torch.cat((low, torch.maximum(clipped[:, 2:], low + MIN_SIDE)), dim=1)


def _inside(start: int, stop: int, size: int, border: str, device: torch.device) -> Tensor:
    """[stop - start] pixel positions within 0..size - 1 that stand for start..stop - 1."""
    positions = torch.arange(start, stop, device=device)
    if border == "replicate":
        return positions.clamp(0, size - 1)
    period = max(2 * (size - 1), 1)  # there and back, the outermost pixels once
    positions = positions % period
    return torch.minimum(positions, period - positions).clamp(max=size - 1)


def _resampling(old: int, new: int, device: torch.device) -> Tensor:
    """[new, old] weights of a row of ``old`` pixels in one of ``new``; each row sums to 1."""
    scale = old / new
    cells = torch.arange(old, device=device, dtype=torch.float32)
    place = torch.arange(new, device=device, dtype=torch.float32)[:, None]
    if scale > 1:  # the share of a new pixel's span that each old one covers
        low, high = place * scale, (place + 1) * scale
        overlap = torch.minimum(high, cells + 1) - torch.maximum(low, cells)
        weights = overlap.clamp(min=0)
        return weights / weights.sum(dim=1, keepdim=True)
    centre = ((place + 0.5) * scale - 0.5).clamp(0, old - 1)
    return (1 - (centre - cells).abs()).clamp(min=0)

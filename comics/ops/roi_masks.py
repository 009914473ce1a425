"""Between masks of a whole image and small square masks that fill a box.

Shape letters: N masks; H, W image; R side of the square masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comics.ops.compiled import roi_align
from comics.ops.mask_parts import MaskPart

MASK_THRESHOLD = 0.5


def crop_and_resize(masks: Tensor, boxes: Tensor, size: int, index: Tensor | None = None) -> Tensor:
    """Cut each mask with its own box and resize it to a square.

    ROIAlign (He et al. 2017, arXiv:1703.06870) with half-pixel shift and as many samples as fit
    into a bin, then >= 0.5: Detectron2's rule for bitmap masks.

    Args:
        masks: [N, H, W] bool.
        boxes: [N, 4] in pixels.
        size: R, in cells.
        index: position of the mask that each box cuts, int64, where boxes and masks do not
            correspond one to one; then there may be any number of boxes.

    Returns:
        [N, R, R] bool, one per box.
    """
    if index is None:
        index = torch.arange(len(boxes), device=boxes.device)
    rois = torch.cat((index[:, None].float(), boxes.float()), dim=1)
    pooled = roi_align(masks[:, None].float(), rois, size, sampling_ratio=-1, aligned=True)
    return pooled[:, 0] >= MASK_THRESHOLD


def square_parts(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> list[MaskPart]:
    """Square soft masks in an image: bilinear sampling at pixel centres, then >= 0.5.

    The mask covers the box exactly and is 0 beyond its own cells, as in Detectron2. Bilinear
    sampling on an axis-aligned grid is two small matrix products, done within each box only:
    the cost grows with the area of the faces, not with their number times the image.

    Args:
        masks: [N, R, R] in [0, 1].
        boxes: [N, 4] in pixels; a box without area leaves its mask empty.
        image_size: (H, W).
    """
    with torch.autocast(masks.device.type, enabled=False):
        soft = masks.float()
        return [
            _square_part(mask, box, image_size)
            for mask, box in zip(soft, boxes.tolist(), strict=True)
        ]


def _square_part(soft: Tensor, box: list[float], image_size: tuple[int, int]) -> MaskPart:
    height, width = image_size
    x0, y0, x1, y1 = box
    # one pixel more than the box: a mask of 1 at the edge reaches 0.5 exactly on it
    left, right = max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, width)
    top, bottom = max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, height)
    if x1 <= x0 or y1 <= y0 or left >= right or top >= bottom:
        return MaskPart(0, 0, torch.zeros((0, 0), dtype=torch.bool, device=soft.device))
    rows = _bilinear_weights(soft, top, bottom, y0, y1)
    columns = _bilinear_weights(soft, left, right, x0, x1)
    return MaskPart(top, left, rows @ soft @ columns.T >= MASK_THRESHOLD)


def _bilinear_weights(mask: Tensor, start: int, stop: int, low: float, high: float) -> Tensor:
    """[stop - start, R] weights of the mask's cells at the centres of pixels start..stop - 1."""
    size = len(mask)
    centres = torch.arange(start, stop, device=mask.device, dtype=torch.float32) + 0.5
    position = (centres - low) / (high - low) * size - 0.5
    cells = torch.arange(size, device=mask.device, dtype=torch.float32)
    return (1 - (position[:, None] - cells).abs()).clamp(min=0)

"""Operations on boxes ``(x0, y0, x1, y1)`` in pixels, right and bottom edges exclusive.

Shape letters: N, M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comics.ops.transfers import on_device


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """COCO's (x, y, width, height) [N, 4] to (x0, y0, x1, y1) [N, 4]."""
    x, y, width, height = boxes.unbind(-1)
    return torch.stack((x, y, x + width, y + height), dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(x0, y0, x1, y1) [N, 4] to COCO's (x, y, width, height) [N, 4]."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack((x0, y0, x1 - x0, y1 - y0), dim=-1)


def scale_boxes(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Multiply the x coordinates of [N, 4] boxes by ``scale_x``, the y ones by ``scale_y``."""
    return boxes * on_device([scale_x, scale_y] * 2, boxes.device, boxes.dtype)


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip [N, 4] boxes to an image of (height, width)."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack((x, y), dim=2).view(boxes.shape)


def box_area(boxes: Tensor) -> Tensor:
    """[N] width times height of [N, 4] boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """[N, M] intersection over union of [N, 4] and [M, 4] boxes, float32 or float64."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    shared = width * height
    return shared / (box_area(first)[:, None] + box_area(second) - shared)


def nonempty(boxes: Tensor) -> Tensor:
    """[N] bool: boxes with positive width and height."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

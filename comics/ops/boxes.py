"""Operations on boxes ``(x0, y0, x1, y1)`` in pixels, right and bottom edges exclusive.

Shape letters: N, M boxes.
"""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor
from torchvision.ops import box_area, box_iou, clip_boxes_to_image

from comics.ops.transfers import on_device

__all__ = [
    "batched_nms",
    "box_area",
    "box_iou",
    "clip_boxes",
    "nonempty",
    "scale_boxes",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]


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
    return clip_boxes_to_image(boxes, image_size)


def batched_nms(boxes: Tensor, scores: Tensor, group: Tensor, threshold: float) -> Tensor:
    """Positions of the boxes that survive greedy suppression within their group, best first.

    On a GPU torchvision's function waits for it a second time, or once per group; this one waits
    once, for the number of survivors.

    Args:
        boxes: [N, 4].
        scores: [N].
        group: [N] int64: boxes of different ones leave each other alone.
        threshold: a box goes whose IoU with a better one is above it.
    """
    if not len(boxes):
        return group
    if boxes.device.type == "cpu":
        return torchvision.ops.batched_nms(boxes, scores, group, threshold)
    return _shifted_nms(boxes, scores, group, threshold)


def _shifted_nms(boxes: Tensor, scores: Tensor, group: Tensor, threshold: float) -> Tensor:
    """Suppression of all groups at once, each moved to where no other's boxes are."""
    shift = group.to(boxes) * (boxes.max() + 1)
    return torchvision.ops.nms(boxes + shift[:, None], scores, threshold)


def nonempty(boxes: Tensor) -> Tensor:
    """[N] bool: boxes with positive width and height."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])

"""Losses of dense detectors: focal, overlap of boxes given as distances, and of masks; centre-ness.

Shape letters: N locations or masks; K classes. Distances are (left, top, right, bottom) from one
point to the four sides of a box, in strides (pixels divided by the level's stride), all >= 0. All
arithmetic is in float32, whatever the precision of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

IOU_LOSSES = ("iou", "linear_iou", "giou")
IOU_SMOOTHING = 1.0  # AdelaiDet's (I + 1) / (U + 1): finite logarithm for boxes that do not meet


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002, eq. 5).

    Args:
        logits: [N, K].
        labels: [N] int64; 0..K-1 a class, K background (all K outputs are negatives).
        alpha: weight of positives in [0, 1] (negatives get 1 - alpha); negative = no weighting.
        gamma: exponent of (1 - p).

    Returns:
        Scalar.
    """
    from torchvision.ops import sigmoid_focal_loss  # see comics.ops.compiled

    classes = torch.arange(logits.shape[1], device=labels.device)
    one_hot = (labels[:, None] == classes).float()
    return sigmoid_focal_loss(logits.float(), one_hot, alpha=alpha, gamma=gamma, reduction="sum")


def distance_iou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """IoU (I + 1) / (U + 1) and generalised IoU of boxes around common points.

    gIoU = IoU - (E - U) / E with E the enclosing box (Rezatofighi et al. 2019,
    arXiv:1902.09630); the + 1 is AdelaiDet's.

    Args:
        predicted, target: [N, 4] distances.

    Returns:
        iou and giou, [N] each.
    """
    predicted, target = predicted.float(), target.float()
    smallest, largest = torch.minimum(predicted, target), torch.maximum(predicted, target)
    intersection = _distance_area(smallest)
    enclosing = _distance_area(largest)
    union = _distance_area(predicted) + _distance_area(target) - intersection
    iou = (intersection + IOU_SMOOTHING) / (union + IOU_SMOOTHING)
    return iou, iou - (enclosing - union) / enclosing


def distance_iou_loss(iou: Tensor, giou: Tensor, kind: str) -> Tensor:
    """Per-box loss [N] from what ``distance_iou`` returns.

    "iou" is -log IoU (Yu et al. 2016), "linear_iou" 1 - IoU, "giou" 1 - gIoU.

    Raises:
        ValueError: for another kind.
    """
    if kind == "iou":
        return -iou.log()
    if kind == "linear_iou":
        return 1 - iou
    if kind == "giou":
        return 1 - giou
    raise ValueError(f"unknown IoU loss {kind!r}; choices: {', '.join(IOU_LOSSES)}")


def centerness(distances: Tensor) -> Tensor:
    """Centre-ness [N] in [0, 1] of points from [N, 4] positive distances.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (Tian et al. 2019, arXiv:1904.01355, eq. 3).
    """
    left, top, right, bottom = distances.float().unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (horizontal * vertical).sqrt()


def dice_loss(predicted: Tensor, target: Tensor, *, smoothing: float) -> Tensor:
    """1 - 2 sum(p q) / (sum(p^2) + sum(q^2) + smoothing) (Milletari et al. 2016, arXiv:1606.04797).

    Args:
        predicted: [N, ...] in [0, 1].
        target: [N, ...], of the same shape, bool or in [0, 1].
        smoothing: > 0, keeps the quotient of two empty masks finite.

    Returns:
        [N] float32 in [0, 1].
    """
    p, q = predicted.float().flatten(1), target.float().flatten(1)
    total = p.square().sum(dim=1) + q.square().sum(dim=1)
    return 1 - 2 * (p * q).sum(dim=1) / (total + smoothing)


def _distance_area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)

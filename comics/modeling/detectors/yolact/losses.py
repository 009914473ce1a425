"""YOLACT's losses (Bolya et al. 2019, arXiv:1904.02689, section 3; the classes' after SSD, Liu et
al. 2016, arXiv:1512.02325, section 2.2), and masks from prototypes.

Shape letters: B images; R anchors of an image; K classes; D prototypes; N masks; h, w of the
prototypes, or of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from comics.modeling.detectors.solov2 import shrink_masks
from comics.structures import Faces

CROP_MARGIN = 1.0  # cells of the prototypes around a box (public code)
SMALLEST_AREA = 1.0  # cells: a face under a cell weighs as one of a cell


def hard_negative_loss(logits: Tensor, labels: Tensor, negatives_per_positive: int) -> Tensor:
    """Sum of the cross-entropies of all positives and of each image's hardest negatives.

    An image has ``negatives_per_positive`` times as many negatives as positives: those whose loss
    is largest. An image without positives adds nothing, as in SSD.

    Args:
        logits: [B, R, K + 1], background last.
        labels: [B, R] int64, K background, -1 neither.
        negatives_per_positive: 3 in both papers.
    """
    background = logits.shape[2] - 1
    errors = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none"
    ).view_as(labels)
    positive, negative = (labels >= 0) & (labels < background), labels == background
    hardness = torch.where(negative, errors.detach(), -1.0)
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = negatives_per_positive * positive.sum(dim=1, keepdim=True)
    chosen = positive | (negative & (rank < wanted))
    return (errors * chosen).sum()


def inside_boxes(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Cells of a map within boxes and a cell around them: [N, h, w] bool.

    Args:
        boxes: [N, 4] pixels.
        size: (h, w).
        stride: pixels per cell.
    """
    x0, y0, x1, y1 = (boxes.float() / stride).unbind(dim=1)
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    vertical = (rows >= (y0 - CROP_MARGIN)[:, None]) & (rows < (y1 + CROP_MARGIN)[:, None])
    horizontal = (columns >= (x0 - CROP_MARGIN)[:, None]) & (columns < (x1 + CROP_MARGIN)[:, None])
    return vertical[:, :, None] & horizontal[:, None, :]


def mask_logits(coefficients: Tensor, prototypes: Tensor) -> Tensor:
    """[N, h, w] from coefficients [N, D] and the prototypes [D, h, w] of their image (eq. 1)."""
    return (coefficients @ prototypes.flatten(1)).view(-1, *prototypes.shape[1:])


def mask_errors(logits: Tensor, wanted: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Cross-entropies summed within boxes over the boxes' areas, [N].

    Args:
        logits, wanted: [N, h, w], the latter bool.
        boxes: [N, 4] pixels, of the faces.
        stride: pixels per cell.
    """
    errors = functional.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none")
    inside = inside_boxes(boxes, (logits.shape[1], logits.shape[2]), stride)
    area = ((boxes[:, 2:] - boxes[:, :2]).float() / stride).prod(dim=1).clamp(min=SMALLEST_AREA)
    return (errors * inside).flatten(1).sum(dim=1) / area


def semantic_loss(logits: Tensor, targets: Sequence[Faces], stride: int) -> Tensor:
    """Mean over images and cells of the cross-entropies summed over classes (section 3.3).

    Args:
        logits: [B, K, h, w] of a level; a cell may belong to several classes.
        targets: faces of each image.
        stride: pixels per cell of the level.
    """
    size = (logits.shape[2], logits.shape[3])
    wanted = torch.zeros_like(logits)
    for image, faces in zip(wanted, targets, strict=True):
        if not len(faces):
            continue
        masks = shrink_masks(faces.known_masks, stride, size, "aligned")
        classes = torch.arange(len(image), device=image.device)
        of_class = (faces.labels == classes[:, None])[:, :, None, None]  # [K, N, 1, 1]
        image.copy_((of_class & masks).any(dim=1))
    errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    return errors / (len(logits) * size[0] * size[1])

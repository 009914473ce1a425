"""torchvision's compiled operators, without its Python where that is not needed.

Importing torchvision imports PyTorch's compiler, which takes longer than a photo does. On the CPU,
without gradients, all that is used of it is two functions of its library; everywhere else these
functions are torchvision's own.

Shape letters: B images; C channels; h, w of a map; N boxes; S side of a pooled map.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "torchvision"
LIBRARIES = ("_C_stable", "_C")  # of torchvision 0.28 and later, and of those before
# torchvision's rule: below so many numbers, classes are kept apart by moving their boxes apart
MOVED_APART = 4000


@cache
def _library_is_loaded() -> bool:
    """Load the compiled operators; False where they are not found or cannot be loaded alone."""
    if PACKAGE in sys.modules:
        return False  # it has loaded them, and costs nothing any more
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    names = [name + suffix for name in LIBRARIES for suffix in EXTENSION_SUFFIXES]
    for path in (Path(folder) / name for folder in folders for name in names):
        if path.is_file():
            try:
                torch.ops.load_library(path)
            except OSError:
                return False
            return hasattr(torch.ops.torchvision, "roi_align")
    return False


def _suffices(tensor: Tensor) -> bool:
    """Whether the compiled operators alone do."""
    on_cpu = tensor.device.type == "cpu" and not tensor.requires_grad
    return on_cpu and not torch.compiler.is_compiling() and _library_is_loaded()


def roi_align(
    maps: Tensor,
    boxes: Tensor | Sequence[Tensor],
    size: int,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Features within boxes: [N, C, S, S]; see ``torchvision.ops.roi_align``.

    Args:
        maps: [B, C, h, w].
        boxes: [N, 5], image and (x0, y0, x1, y1); or [N_i, 4] of each image.
        size: S.
        spatial_scale: cells of the maps per pixel.
        sampling_ratio: samples per bin and side; 0 or less takes as many as fit.
        aligned: with the half-pixel shift.
    """
    if not _suffices(maps):
        import torchvision

        given = boxes if isinstance(boxes, Tensor) else list(boxes)
        return torchvision.ops.roi_align(maps, given, size, spatial_scale, sampling_ratio, aligned)
    if not isinstance(boxes, Tensor):
        owners = [torch.full_like(own[:, :1], image) for image, own in enumerate(boxes)]
        boxes = torch.cat((torch.cat(owners), torch.cat(list(boxes))), dim=1)
    return torch.ops.torchvision.roi_align(
        maps, boxes, spatial_scale, size, size, sampling_ratio, aligned
    )


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Positions [M] int64 of what is kept, best first, of each class apart.

    The same positions as ``torchvision.ops.batched_nms``. On a GPU that waits for it a second time,
    or once per class; this one waits once, for the number of survivors.

    Args:
        boxes: [N, 4].
        scores: [N].
        labels: [N] int64.
        iou_threshold: what overlaps more with a better box of its class is suppressed.
    """
    if not len(boxes):
        return torch.zeros_like(labels)
    if not _suffices(boxes):
        import torchvision

        if boxes.device.type == "cpu":
            return torchvision.ops.batched_nms(boxes, scores, labels, iou_threshold)
        return torchvision.ops.nms(_moved_apart(boxes, labels), scores, iou_threshold)
    nms = torch.ops.torchvision.nms
    if boxes.numel() <= MOVED_APART:
        return nms(_moved_apart(boxes, labels), scores, iou_threshold)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero().squeeze(1)
        kept[own[nms(boxes[own], scores[own], iou_threshold)]] = True
    positions = kept.nonzero().squeeze(1)
    return positions[scores[positions].sort(descending=True).indices]


def _moved_apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """[N, 4] boxes of each class where no other's are."""
    return boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None]

"""Ground-truth masks in the forms that several detectors learn from.

Shape letters: F faces of one image or of the batch; H, W image; h, w grid; R side of a square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from comics.ops.roi_masks import crop_and_resize
from comics.structures import Faces


def require_masks(targets: Sequence[Faces]) -> None:
    """Raise ``ValueError``, naming the target, if there are faces without masks."""
    for position, faces in enumerate(targets):
        if len(faces) and faces.masks is None:
            raise ValueError(f"target {position} has {len(faces)} faces but no masks")


def bitmaps(faces: Faces) -> Tensor:
    """Masks [F, H, W] bool, also of an image without faces that says nothing about masks."""
    if faces.masks is not None:
        return faces.masks
    return torch.zeros((0, *faces.image_size), dtype=torch.bool, device=faces.boxes.device)


def target_masks(targets: Sequence[Faces], size: int) -> Tensor:
    """Masks of all faces within their own boxes: [F, size, size] bool."""
    crops = [crop_and_resize(f.known_masks, f.boxes, size) for f in targets if len(f)]
    if not crops:
        return torch.zeros((0, size, size), dtype=torch.bool, device=targets[0].boxes.device)
    return torch.cat(crops)


def sampled_masks(masks: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th pixel of [F, H, W] masks, from ``stride // 2`` on."""
    return masks[:, stride // 2 :: stride, stride // 2 :: stride]


def pad_masks(masks: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """All masks of a batch, per image [F_i, h_i, w_i], zero-padded to [F, h, w]."""
    height, width = grid
    return torch.cat(
        [functional.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in masks]
    )

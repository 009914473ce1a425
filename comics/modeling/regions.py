"""Which cells of a face's region of interest are face, and which are background.

Shape letters: F faces; N faces of one image; S side of a face's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comics.ops.boxes import clip_boxes, nonempty
from comics.ops.roi_masks import crop_and_resize
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces

SAMPLING_RULES = ("far", "close", "all")


@dataclass(frozen=True)
class FaceRegions:
    """The faces that the pixel contrast uses, image by image in order.

    Attributes:
        boxes: per image [F_i, 4], pixels: what the features are to be pooled from.
        face: [F, S, S] bool, h+ of the paper, never empty.
        background: [F, S, S] bool, h-, never empty.
        labels: [F] int64, on the host, where it decides who is compared with whom.
        image: [F] int64, likewise.
    """

    boxes: list[Tensor]
    face: Tensor
    background: Tensor
    labels: np.ndarray
    image: np.ndarray


@torch.no_grad()
def face_regions(
    targets: Sequence[Faces], *, size: int, context: float, margin: int, sampling: str
) -> FaceRegions:
    """The usable faces of a batch: a box inside the image, and cells in both regions.

    docs/methods.md#comics-regions (V-A and Fig. 6 of the paper).

    Args:
        targets: the faces of each image, with masks, annotated or predicted.
        size: S.
        context: the region of interest is the face's box times this, cut at the image's edges;
            > 1 adds background.
        margin: cells within this distance (Chebyshev) of the mask's boundary count as near it.
        sampling: "far" leaves the near cells out (the paper), "close" leaves only them, "all"
            (Table VI).

    Raises:
        ValueError: naming the target, if it has no masks.
    """
    boxes, face, background, usable = [], [], [], []
    for position, faces in enumerate(targets):
        if faces.masks is None:
            raise ValueError(f"pixel contrast needs masks, target {position} has none")
        rois = clip_boxes(_grown(faces.boxes, context), faces.image_size)
        plus, minus = split_regions(crop_and_resize(faces.masks, rois, size), margin, sampling)
        usable.append(nonempty(rois) & plus.flatten(1).any(dim=1) & minus.flatten(1).any(dim=1))
        boxes.append(rois)
        face.append(plus)
        background.append(minus)
    kept, labels = on_host(torch.cat(usable), torch.cat([faces.labels for faces in targets]))
    image = np.repeat(np.arange(len(targets)), [len(faces) for faces in targets])
    rows = np.flatnonzero(kept)
    index = on_device(rows, boxes[0].device)
    per_image = np.bincount(image[rows], minlength=len(targets)).tolist()
    return FaceRegions(
        list(torch.cat(boxes)[index].split(per_image)),
        torch.cat(face)[index],
        torch.cat(background)[index],
        labels[rows],
        image[rows],
    )


def split_regions(masks: Tensor, margin: int, sampling: str) -> tuple[Tensor, Tensor]:
    """Face and background cells of masks [F, S, S] bool; the edge of the map is no boundary."""
    if sampling == "all" or len(masks) == 0:
        return masks, ~masks
    near_background = _dilate(~masks, margin) & masks
    near_face = _dilate(masks, margin) & ~masks
    if sampling == "close":
        return near_background, near_face
    return masks & ~near_background, ~masks & ~near_face


def _dilate(masks: Tensor, margin: int) -> Tensor:
    side = 2 * margin + 1
    return functional.max_pool2d(masks[:, None].float(), side, stride=1, padding=margin)[:, 0] > 0


def _grown(boxes: Tensor, factor: float) -> Tensor:
    """Boxes [N, 4] grown about their centres."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * factor
    return torch.cat((centre - half, centre + half), dim=1)

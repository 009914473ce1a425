"""Which cells of a face's region of interest are face, and which are background.

Shape letters: F faces; N faces of one image; S side of a face's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from comics.ops.boxes import clip_boxes, nonempty
from comics.ops.roi_masks import crop_and_resize
from comics.structures import Faces

SAMPLING_RULES = ("far", "close", "all")


@dataclass(frozen=True)
class FaceRegions:
    """The faces that the pixel contrast uses, image by image in order.

    Attributes:
        boxes: per image [F_i, 4], pixels: what the features are to be pooled from.
        face: [F, S, S] bool, h+ of the paper, never empty.
        background: [F, S, S] bool, h-, never empty.
        labels: [F] int64.
        image: [F] int64.
    """

    boxes: list[Tensor]
    face: Tensor
    background: Tensor
    labels: Tensor
    image: Tensor


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
    boxes, face, background, labels, image = [], [], [], [], []
    for position, faces in enumerate(targets):
        if faces.masks is None:
            raise ValueError(f"pixel contrast needs masks, target {position} has none")
        rois = clip_boxes(_grown(faces.boxes, context), faces.image_size)
        inside = nonempty(rois)
        masks = crop_and_resize(faces.masks[inside], rois[inside], size)
        plus, minus = split_regions(masks, margin, sampling)
        usable = plus.flatten(1).any(dim=1) & minus.flatten(1).any(dim=1)
        boxes.append(rois[inside][usable])
        face.append(plus[usable])
        background.append(minus[usable])
        labels.append(faces.labels[inside][usable])
        image.append(torch.full_like(labels[-1], position))
    joined = (torch.cat(parts) for parts in (face, background, labels, image))
    return FaceRegions(boxes, *joined)


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

"""Which proposals count as which face: the rules of ``MODEL.COMICS.PROPOSAL.MATCH``.

docs/methods.md#comics-matching. Shape letters: B images; P proposals; F faces of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from comics.modeling.detectors.base import LevelBoxes, LevelProposals
from comics.ops.boxes import box_area, box_iou
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces

MATCH_RULES = ("iou", "assigned", "any")


def no_proposals(device: torch.device) -> LevelProposals:
    """A level without proposals."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return LevelProposals(none, none, torch.zeros((0, 4), device=device), none)


def labels_of(proposals: LevelProposals, targets: Sequence[Faces]) -> Tensor:
    """[P] int64: the class of each proposal's face."""
    return torch.cat([faces.labels for faces in targets])[_position(proposals, targets)]


def overlapping(
    proposals: Mapping[str, LevelProposals], targets: Sequence[Faces], threshold: float
) -> dict[str, LevelProposals]:
    """Of each level those whose box overlaps their own face by an IoU above ``threshold``."""
    if not proposals:
        return {}
    truth = torch.cat([faces.boxes for faces in targets])
    overlaps = [
        _paired_iou(one.boxes, truth[_position(one, targets)]) > threshold
        for one in proposals.values()
    ]
    found = {}
    for (level, one), kept in zip(proposals.items(), on_host(*overlaps), strict=True):
        rows = on_device(np.flatnonzero(kept), one.image.device)
        cells = None if one.cells is None else one.cells[rows]
        found[level] = LevelProposals(one.image[rows], one.face[rows], one.boxes[rows], cells)
    return found


def overlapping_any(
    views: Sequence[Mapping[str, LevelBoxes]], targets: Sequence[Faces], threshold: float
) -> dict[str, LevelProposals]:
    """Proposals of any view that overlap some face by an IoU above ``threshold``, level by level.

    A proposal belongs to the face that it overlaps most. A location counts once, with the box of
    the view that overlaps a face more; boxes without a location all count.

    Args:
        views: level name -> every proposal of a view, whatever it overlaps.
        targets: ground truth, which the views share.
        threshold: in [0, 1].
    """
    levels = dict.fromkeys(level for view in views for level in view)
    return {
        level: _level_overlapping_any(
            [view[level] for view in views if level in view], targets, threshold
        )
        for level in levels
    }


def _level_overlapping_any(
    views: Sequence[LevelBoxes], targets: Sequence[Faces], threshold: float
) -> LevelProposals:
    image = torch.cat([view.image for view in views])
    boxes = torch.cat([view.boxes for view in views])
    face, iou = torch.zeros_like(image), torch.zeros_like(boxes[:, 0])
    for position, faces in enumerate(targets):
        if len(faces):
            here = image == position
            best = box_iou(boxes, faces.boxes.to(boxes)).max(dim=1)
            iou = torch.where(here, best.values, iou)
            face = torch.where(here, best.indices, face)
    kept = (iou > threshold).nonzero().squeeze(1)
    cells = _cells(views)
    if cells is not None:
        kept = kept[_best_of_each((image[kept], cells[kept]), iou[kept])]
    return LevelProposals(
        image[kept], face[kept], boxes[kept], None if cells is None else cells[kept]
    )


def _cells(views: Sequence[LevelBoxes]) -> Tensor | None:
    cells = [view.cells for view in views if view.cells is not None]
    return torch.cat(cells) if len(cells) == len(views) else None


def _best_of_each(keys: tuple[Tensor, Tensor], score: Tensor) -> Tensor:
    """Positions of the best row of each pair of keys [P], [P]; the first of equals."""
    order = score.argsort(descending=True, stable=True)
    pairs = torch.stack(keys, dim=1)[order]
    found, group = pairs.unique(dim=0, return_inverse=True)
    rank = torch.arange(len(order), device=order.device)
    first = rank.new_full((len(found),), len(order)).scatter_reduce(0, group, rank, "amin")
    return order[first]


def _position(proposals: LevelProposals, targets: Sequence[Faces]) -> Tensor:
    """[P] position of each proposal's face among the faces of the batch."""
    ends = np.cumsum([0] + [len(faces) for faces in targets[:-1]])
    return on_device(ends, proposals.image.device)[proposals.image] + proposals.face


def _paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """[P] IoU of each box with its partner."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    total = box_area(first) + box_area(second) - shared
    return shared / total

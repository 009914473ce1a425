"""Which anchors of a pyramid answer for which face: for detectors that classify anchors directly.

Shape letters: B images; F faces of one image; R anchors of an image, ordered level -> row ->
column -> anchor of the cell; A anchors per cell; K classes; P anchors of the batch with a face; h,
w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from comics.modeling.detectors.base import LevelBoxes, LevelProposals
from comics.modeling.detectors.deltas import DeltaCoder
from comics.ops.boxes import box_iou
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces

IGNORED, NO_FACE = -1, -1


@dataclass(frozen=True)
class AnchorTargets:
    """Targets of every anchor of a batch.

    Attributes:
        labels: [B, R] int64, 0..K-1 a class, K background, -1 neither (no loss).
        face: [B, R] int64, position of the face among its image's targets; -1 without one.
        boxes: [B, R, 4] of that face, pixels; zeros without one.
    """

    labels: Tensor
    face: Tensor
    boxes: Tensor

    @property
    def positive(self) -> Tensor:
        """[B, R] bool: anchors with a face."""
        return self.face >= 0


def match_anchors(overlap: Tensor, background: float, foreground: float) -> tuple[Tensor, Tensor]:
    """The face of each anchor, and whether it is background, from their IoU.

    An anchor takes the face that it overlaps most, from ``foreground`` on; below ``background`` it
    is background, in between neither. Each face that any anchor touches has its best anchor,
    whatever their overlap; of two faces with the same best anchor, the later one.

    Args:
        overlap: [F, R] in [0, 1].
        background, foreground: IoU.

    Returns:
        face [R] int64, -1 for none, and background [R] bool.
    """
    count = overlap.shape[1]
    if not len(overlap):
        none = torch.full((count,), NO_FACE, device=overlap.device)
        return none, torch.ones(count, dtype=torch.bool, device=overlap.device)
    best, face = overlap.max(dim=0)
    face = torch.where(best >= foreground, face, NO_FACE)
    is_background = best < background
    highest, anchor = overlap.max(dim=1)
    number = torch.arange(len(overlap), device=overlap.device)
    claims = torch.where(highest > 0, number, NO_FACE)
    claimed = torch.full_like(face, NO_FACE).scatter_reduce(0, anchor, claims, "amax")
    return torch.where(claimed >= 0, claimed, face), is_background & (claimed < 0)


@torch.no_grad()
def assign_anchors(
    anchors: Tensor,
    targets: Sequence[Faces],
    *,
    num_classes: int,
    background: float,
    foreground: float,
) -> AnchorTargets:
    """Targets of anchors [R, 4], the same for all images; see ``match_anchors``."""
    labels, faces, boxes = [], [], []
    for one in targets:
        truth = one.boxes.to(anchors)
        face, is_background = match_anchors(box_iou(truth, anchors), background, foreground)
        label = torch.where(is_background, num_classes, IGNORED)
        box = torch.zeros_like(anchors)
        if len(truth):
            chosen = face.clamp(min=0)
            label = torch.where(face >= 0, one.labels[chosen], label)
            box = torch.where((face >= 0)[:, None], truth[chosen], box)
        labels.append(label)
        faces.append(face)
        boxes.append(box)
    return AnchorTargets(torch.stack(labels), torch.stack(faces), torch.stack(boxes))


def per_anchor(maps: Sequence[Tensor], width: int) -> Tensor:
    """Per level [B, A * width, h, w] to [B, R, width]."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps], dim=1)


def decoded_boxes(coder: DeltaCoder, deltas: Sequence[Tensor], anchors: Tensor) -> Tensor:
    """Predicted boxes [B, R, 4] without gradient, pixels.

    Args:
        coder: of the deltas.
        deltas: per level [B, 4 A, h, w].
        anchors: [R, 4], the same for all images.
    """
    flat = per_anchor(deltas, anchors.shape[1]).detach()
    every = anchors.expand(len(flat), -1, -1).flatten(0, 1)
    return coder.decode_single(flat.flatten(0, 1), every).view_as(flat)


def anchor_proposals(
    found: AnchorTargets,
    predicted: Tensor,
    levels: Sequence[str],
    map_sizes: Sequence[tuple[int, int]],
    per_cell: int,
) -> dict[str, LevelProposals]:
    """Every anchor with a face, as a proposal of its cell.

    Args:
        found: targets.
        predicted: [B, R, 4] decoded boxes, pixels.
        levels: names, finest first.
        map_sizes: (h, w) of each.
        per_cell: A.
    """
    proposals, start = {}, 0
    known = on_host(found.positive)[0]
    for level, (height, width) in zip(levels, map_sizes, strict=True):
        stop = start + height * width * per_cell
        image, index = (on_device(one, predicted.device) for one in known[:, start:stop].nonzero())
        proposals[level] = LevelProposals(
            image,
            found.face[image, start + index],
            predicted[image, start + index].detach(),
            index // per_cell,
        )
        start = stop
    return proposals


def every_anchor(
    predicted: Tensor,
    levels: Sequence[str],
    map_sizes: Sequence[tuple[int, int]],
    per_cell: int,
) -> dict[str, LevelBoxes]:
    """Every anchor as a proposal of its cell, whatever it overlaps; see ``anchor_proposals``."""
    found, start = {}, 0
    images = torch.arange(len(predicted), device=predicted.device)
    for level, (height, width) in zip(levels, map_sizes, strict=True):
        count = height * width * per_cell
        boxes = predicted[:, start : start + count].flatten(0, 1)
        cell = torch.arange(count, device=predicted.device) // per_cell
        found[level] = LevelBoxes(
            images.repeat_interleave(count), boxes.detach(), cell.repeat(len(predicted))
        )
        start += count
    return found

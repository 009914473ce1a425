"""FCOS: which location of which pyramid level answers for which face.

Tian et al. 2019 (arXiv:1904.01355, section 3.1), with the centre sampling of its later version
(arXiv:2006.09214, section 3.1); details as in AdelaiDet.

Shape letters: B images; F faces of one image; L locations of one image over all levels;
N = B * L locations of the batch, ordered level -> image -> row -> column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from comics.config import CfgNode

UNASSIGNED = -1
# Bounds of the finest and coarsest level: everything below and above is theirs too
SMALLEST_SIZE, LARGEST_SIZE = -1.0, 1e8


def level_locations(
    height: int, width: int, stride: int, device: torch.device | str | None = None
) -> Tensor:
    """[height * width, 2] (x, y) pixels that the cells of a level stand for, row-major.

    Cell (i, j) stands for (j * stride + stride // 2, i * stride + stride // 2).
    """
    y = torch.arange(height, device=device, dtype=torch.float32) * stride + stride // 2
    x = torch.arange(width, device=device, dtype=torch.float32) * stride + stride // 2
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x.flatten(), grid_y.flatten()), dim=1)


@dataclass(frozen=True)
class Assignment:
    """Targets of every location of a batch.

    Attributes:
        labels: [N] int64, class of the face; the number of classes for background.
        distances: [N, 4] left, top, right, bottom in strides; 0 for background.
        face: [N] int64, position among the faces of the whole batch (those of earlier images come
            first); -1 for background.
        image: [N] int64.
        level: [N] int64, position among the levels.
        cell: [N] int64, row * width + column within the level's map.
        positive: [P] int64, positions of the locations that have a face.
        first_face: [B] int64, ``face`` of each image's first face.
    """

    labels: Tensor
    distances: Tensor
    face: Tensor
    image: Tensor
    level: Tensor
    cell: Tensor
    positive: Tensor
    first_face: Tensor


@dataclass(frozen=True)
class TargetAssigner:
    """Assigns the smallest suitable face to each location.

    Attributes:
        strides: pixels per cell, per level.
        sizes_of_interest: pixels, ascending bounds between the levels, one fewer than levels. A
            level answers for faces whose largest distance lies within its bounds, both inclusive.
        num_classes: the background's label.
        center_sample: only locations near the face's centre; else all inside its box.
        radius: half side of the square around the centre, in strides.

    Raises:
        ValueError: if the number of bounds does not fit the number of levels.
    """

    strides: tuple[int, ...]
    sizes_of_interest: tuple[float, ...]
    num_classes: int
    center_sample: bool = True
    radius: float = 1.5

    def __post_init__(self) -> None:
        if len(self.sizes_of_interest) != len(self.strides) - 1:
            raise ValueError(
                f"{len(self.strides)} levels need {len(self.strides) - 1} SIZES_OF_INTEREST, got "
                f"{list(self.sizes_of_interest)}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TargetAssigner:
        """From ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return cls(
            strides=tuple(node.FPN_STRIDES),
            sizes_of_interest=tuple(node.SIZES_OF_INTEREST),
            num_classes=node.NUM_CLASSES,
            center_sample=node.CENTER_SAMPLE,
            radius=node.POS_RADIUS,
        )

    def assign(
        self,
        map_sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        centers: Sequence[Tensor] | None = None,
    ) -> Assignment:
        """Targets for a batch.

        Args:
            map_sizes: (height, width) of each level's map, in cells.
            boxes: per image [F, 4], pixels, with positive area.
            labels: per image [F] int64.
            centers: per image [F, 2] (x, y) for the centre sampling; default: the boxes' centres.
        """
        device = boxes[0].device
        if centers is None:
            centers = [(b[:, :2] + b[:, 2:]) / 2 for b in boxes]
        table = self._location_table(map_sizes, device)
        counts = [len(b) for b in boxes]
        first_face = torch.tensor([sum(counts[:i]) for i in range(len(counts))], device=device)
        parts = [
            self._assign_image(table, *image) for image in zip(boxes, labels, centers, strict=True)
        ]
        chosen, image_labels, distances = (torch.stack(part) for part in zip(*parts, strict=True))
        face = torch.where(chosen == UNASSIGNED, chosen, chosen + first_face[:, None])
        image = torch.arange(len(boxes), device=device)[:, None].expand_as(face)
        order = _LevelMajor([height * width for height, width in map_sizes])
        all_labels = order(image_labels)
        return Assignment(
            labels=all_labels,
            distances=order(distances),
            face=order(face),
            image=order(image),
            level=order(table.level.expand_as(face)),
            cell=order(table.cell.expand_as(face)),
            positive=(all_labels != self.num_classes).nonzero().squeeze(1),
            first_face=first_face,
        )

    def _location_table(
        self, map_sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> _LocationTable:
        bounds = (SMALLEST_SIZE, *self.sizes_of_interest, LARGEST_SIZE)
        counts = torch.tensor([height * width for height, width in map_sizes], device=device)
        level = torch.arange(len(map_sizes), device=device).repeat_interleave(counts)
        return _LocationTable(
            points=torch.cat(
                [
                    level_locations(*size, stride, device)
                    for size, stride in zip(map_sizes, self.strides, strict=True)
                ]
            ),
            stride=torch.tensor(self.strides, device=device, dtype=torch.float32)[level],
            lower=torch.tensor(bounds[:-1], device=device)[level],
            upper=torch.tensor(bounds[1:], device=device)[level],
            level=level,
            cell=torch.cat([torch.arange(h * w, device=device) for h, w in map_sizes]),
        )

    def _assign_image(
        self, table: _LocationTable, boxes: Tensor, labels: Tensor, centers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[L] face or -1, [L] label, [L, 4] distances in strides."""
        count = len(table.points)
        if len(boxes) == 0:
            return (
                labels.new_full((count,), UNASSIGNED),
                labels.new_full((count,), self.num_classes),
                table.points.new_zeros(count, 4),
            )
        boxes = boxes.float()
        distances = _distances(table.points, boxes[None])  # [L, F, 4]
        inside = distances.amin(dim=2) > 0
        if self.center_sample:
            reach = (self.radius * table.stride)[:, None, None]
            squares = torch.cat((centers.float() - reach, centers.float() + reach), dim=2)
            inside &= _distances(table.points, squares).amin(dim=2) > 0
        size = distances.amax(dim=2)
        suitable = inside & (size >= table.lower[:, None]) & (size <= table.upper[:, None])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        cost = torch.where(suitable, area, torch.inf)
        chosen = cost.argmin(dim=1)  # the first of equals
        found = suitable.any(dim=1)
        rows = torch.arange(count, device=boxes.device)
        return (
            torch.where(found, chosen, UNASSIGNED),
            torch.where(found, labels[chosen], self.num_classes),
            torch.where(found[:, None], distances[rows, chosen], 0.0) / table.stride[:, None],
        )


@dataclass(frozen=True)
class _LocationTable:
    """The L locations of one image: points [L, 2]; the rest [L]."""

    points: Tensor
    stride: Tensor
    lower: Tensor
    upper: Tensor
    level: Tensor
    cell: Tensor


@dataclass(frozen=True)
class _LevelMajor:
    """Reorders [B, L, ...] to [B * L, ...] with the level as slowest index."""

    counts: list[int]

    def __call__(self, values: Tensor) -> Tensor:
        return torch.cat([part.flatten(0, 1) for part in values.split(self.counts, dim=1)])


def _distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Left, top, right, bottom [L, F, 4] from points [L, 2] to boxes [1 or L, F, 4]."""
    return torch.cat((points[:, None] - boxes[..., :2], boxes[..., 2:] - points[:, None]), dim=2)

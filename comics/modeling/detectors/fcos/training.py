"""FCOS in training: which location of which level answers for which face, and the three losses.

Targets: Tian et al. 2019 (arXiv:1904.01355, section 3.1) with the centre sampling of its later
version (arXiv:2006.09214, section 3.1). Losses: eq. 2, normalised as in AdelaiDet. What the quality
branch learns is a part of its own, ``comics.modeling.detectors.quality``.

Shape letters: B images; F faces of one image; L locations of one image over all levels;
N = B * L locations of the batch, ordered level -> image -> row -> column; P of them have a face;
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn

from comics.config import CfgNode
from comics.modeling.detectors.cells import level_locations
from comics.modeling.detectors.quality import Centerness, Positives, Quality
from comics.ops.losses import IOU_LOSSES, distance_iou, distance_iou_loss, focal_loss
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces

UNASSIGNED = -1
# Bounds of the finest and coarsest level: everything below and above is theirs too
SMALLEST_SIZE, LARGEST_SIZE = -1.0, 1e8
NORMALIZERS = ("fg", "moving_fg", "all")
MOVING_START, MOVING_MOMENTUM = 100.0, 0.9  # AdelaiDet's
SMALLEST_WEIGHT = 1e-6  # of the sum of centre-ness, against division by zero


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
        points: [N, 2] (x, y) pixels that the locations stand for.
        strides: [N] float, pixels per cell of their level.
        positive: [P] int64, positions of the locations that have a face.
        level_sizes: how many of them each level has.
        first_face: [B] int64, ``face`` of each image's first face.
    """

    labels: Tensor
    distances: Tensor
    face: Tensor
    image: Tensor
    level: Tensor
    cell: Tensor
    points: Tensor
    strides: Tensor
    positive: Tensor
    level_sizes: list[int]
    first_face: Tensor

    def positives(self, distances: Tensor, faces: Sequence[Faces]) -> Positives:
        """The locations that have a face.

        Args:
            distances: [N, 4] predictions, in strides.
            faces: ground truth of each image.
        """
        chosen = self.positive
        return Positives(
            level=self.level[chosen],
            image=self.image[chosen],
            cell=self.cell[chosen],
            face=self.face[chosen],
            points=self.points[chosen],
            strides=self.strides[chosen],
            predicted=distances[chosen],
            wanted=self.distances[chosen],
            level_sizes=self.level_sizes,
            faces=faces,
        )


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
        first_face = on_device([sum(counts[:i]) for i in range(len(counts))], device)
        parts = [
            self._assign_image(table, *image) for image in zip(boxes, labels, centers, strict=True)
        ]
        chosen, image_labels, distances = (torch.stack(part) for part in zip(*parts, strict=True))
        face = torch.where(chosen == UNASSIGNED, chosen, chosen + first_face[:, None])
        image = torch.arange(len(boxes), device=device)[:, None].expand_as(face)
        cells = [height * width for height, width in map_sizes]
        order = _LevelMajor(cells)
        all_labels = order(image_labels)
        positive = np.flatnonzero(on_host(all_labels != self.num_classes)[0])
        ends = np.searchsorted(positive, len(boxes) * np.cumsum(cells))
        return Assignment(
            labels=all_labels,
            distances=order(distances),
            face=order(face),
            image=order(image),
            level=order(table.level.expand_as(face)),
            cell=order(table.cell.expand_as(face)),
            points=order(table.points.expand(len(boxes), -1, -1)),
            strides=order(table.stride.expand_as(face)),
            positive=on_device(positive, device),
            level_sizes=np.diff(ends, prepend=0).tolist(),
            first_face=first_face,
        )

    def _location_table(
        self, map_sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> _LocationTable:
        bounds = (SMALLEST_SIZE, *self.sizes_of_interest, LARGEST_SIZE)
        counts = [height * width for height, width in map_sizes]
        level = on_device(np.repeat(np.arange(len(counts)), counts), device)
        return _LocationTable(
            points=torch.cat(
                [
                    level_locations(*size, stride, device)
                    for size, stride in zip(map_sizes, self.strides, strict=True)
                ]
            ),
            stride=on_device(self.strides, device, torch.float32)[level],
            lower=on_device(bounds[:-1], device)[level],
            upper=on_device(bounds[1:], device)[level],
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


@dataclass(frozen=True)
class FCOSLossOutput:
    """Losses by name, the positives, and their weights, which mask losses share.

    Attributes:
        losses: "loss_fcos_cls", "loss_fcos_loc" and "loss_fcos_<short name of the quality>".
        positives: the locations that answer for a face.
        weights: [P] targets of the quality branch.
        weight_sum: scalar, their sum averaged over processes, at least 1e-6.
    """

    losses: dict[str, Tensor]
    positives: Positives
    weights: Tensor
    weight_sum: Tensor


class FCOSLoss(nn.Module):
    """Classification, box and quality losses.

    Args:
        num_classes: K.
        alpha, gamma: of the focal loss.
        normalizer: the classification loss is divided by the number of positives ("fg"), its
            moving average ("moving_fg") or the number of locations ("all").
        class_weight: factor on the classification loss.
        box_loss: "iou", "linear_iou" or "giou".
        quality: what the quality branch learns; default: centre-ness.

    Raises:
        ValueError: for an unknown choice.
    """

    moving_positives: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        normalizer: str = "fg",
        class_weight: float = 1.0,
        box_loss: str = "giou",
        quality: Quality | None = None,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("LOSS_NORMALIZER_CLS", normalizer, NORMALIZERS),
            ("LOC_LOSS_TYPE", box_loss, IOU_LOSSES),
        ):
            if value not in choices:
                raise ValueError(f"MODEL.FCOS.{name} must be one of {choices}, got {value!r}")
        self.num_classes = num_classes
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = normalizer
        self.class_weight = class_weight
        self.box_loss = box_loss
        self.quality = quality or Centerness()
        if normalizer == "moving_fg":  # a buffer, so that a resumed run is the same run
            self.register_buffer("moving_positives", torch.tensor(MOVING_START))

    @classmethod
    def from_config(cls, cfg: CfgNode, quality: Quality) -> FCOSLoss:
        """From ``MODEL.FCOS``, with that quality."""
        node = cfg.MODEL.FCOS
        return cls(
            node.NUM_CLASSES,
            alpha=node.LOSS_ALPHA,
            gamma=node.LOSS_GAMMA,
            normalizer=node.LOSS_NORMALIZER_CLS,
            class_weight=node.LOSS_WEIGHT_CLS,
            box_loss=node.LOC_LOSS_TYPE,
            quality=quality,
        )

    def forward(
        self,
        class_logits: Tensor,
        distances: Tensor,
        quality_logits: Tensor,
        target: Assignment,
        faces: Sequence[Faces],
    ) -> FCOSLossOutput:
        """Losses of a batch.

        Without positives the box and quality losses are 0, with a gradient of 0 for every input.

        Args:
            class_logits: [N, K].
            distances: [N, 4] predictions, in strides.
            quality_logits: [N].
            target: targets of the same N locations.
            faces: ground truth of each image.
        """
        positives = target.positives(distances, faces)
        weights = self.quality.target(positives)
        totals = mean_over_processes(
            torch.stack((weights.new_full((), float(len(positives))), weights.sum()))
        )
        count = totals[0].clamp(min=1.0)
        weight_sum = totals[1].clamp(min=SMALLEST_WEIGHT)
        iou, giou = distance_iou(positives.predicted, positives.wanted)
        box_losses = distance_iou_loss(iou, giou, self.box_loss)
        class_sum = focal_loss(class_logits, target.labels, alpha=self.alpha, gamma=self.gamma)
        quality_sum = self.quality.loss(quality_logits[target.positive], weights)
        losses = {
            "loss_fcos_cls": self.class_weight * class_sum / self._class_divisor(count, target),
            "loss_fcos_loc": (box_losses * weights).sum() / weight_sum
            if self.quality.weights_losses
            else box_losses.sum() / count,
            f"loss_fcos_{self.quality.short_name}": quality_sum / count,
        }
        return FCOSLossOutput(losses, positives, weights, weight_sum)

    def _class_divisor(self, count: Tensor, target: Assignment) -> Tensor:
        if self.normalizer == "all":
            return mean_over_processes(torch.full_like(count, float(len(target.labels))))
        if self.normalizer == "moving_fg":
            self.moving_positives.lerp_(count, 1 - MOVING_MOMENTUM)
            return self.moving_positives.clone()
        return count


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed run; itself in a single process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()

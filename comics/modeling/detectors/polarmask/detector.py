"""PolarMask (Xie et al. 2020, arXiv:1909.13226): FCOS, whose locations predict the lengths of rays
to the face's contour instead of distances to the sides of its box. docs/methods.md#polarmask.

Shape letters: B images; C channels; R rays; h, w of a level; N locations of the batch; P of them
with a face, or detections of an image; F faces of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.base import ImageBatch, TrainingOutput, levels_named
from comics.modeling.detectors.candidates import PolygonMasks, SoftMasks
from comics.modeling.detectors.cells import points_of_cells, values_at_cells
from comics.modeling.detectors.fcos import (
    FCOS,
    DenseTraining,
    Detections,
    FCOSHead,
    FCOSLossOutput,
    detected_cells,
    level_major,
    mean_over_processes,
)
from comics.modeling.detectors.polarmask.rays import (
    SMALLEST_RAY,
    box_distances,
    contour,
    polar_centerness,
    polar_iou_loss,
    ray_lengths,
)
from comics.modeling.detectors.pooling import pool_by_reach
from comics.modeling.detectors.target_masks import bitmaps, require_masks
from comics.modeling.detectors.towers import initialise_convs
from comics.ops.losses import focal_loss
from comics.ops.masks import mask_centers
from comics.registry import DETECTORS
from comics.structures import Faces

LARGEST_LOG = math.log(1e4)  # of a ray in strides: its exponential stays finite
SMALLEST_WEIGHT = 1e-6  # of the sum of centre-ness, against division by zero


class PolarHead(FCOSHead):
    """FCOS's head, whose box predictor gives rays: ``HeadOutput.distances`` are [B, R, h, w] > 0.

    Args:
        in_channels: C of the pyramid.
        num_rays: R, 3 or more.
        fcos: arguments of ``FCOSHead``.

    Raises:
        ValueError: for fewer rays, and as ``FCOSHead``.
    """

    def __init__(self, in_channels: int, *, num_rays: int = 36, **fcos: Any) -> None:
        super().__init__(in_channels, **fcos)
        if num_rays < 3:
            raise ValueError(f"MODEL.POLARMASK.NUM_RAYS must be 3 or more, got {num_rays}")
        self.box_distances = nn.Conv2d(in_channels, num_rays, 3, padding=1)
        initialise_convs(self.box_distances)

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.FCOS`` and ``MODEL.POLARMASK``."""
        return FCOSHead.settings(cfg) | {"num_rays": cfg.MODEL.POLARMASK.NUM_RAYS}

    def positive(self, raw: Tensor) -> Tensor:
        """Lengths in strides from what the predictor gives: their exponential, as the authors'."""
        return raw.clamp(max=LARGEST_LOG).exp()


@DETECTORS.register()
class PolarMask(FCOS):
    """FCOS with contours; boxes are theirs.

    Args:
        ray_step: pixels between the samples of a ray, when the rays of faces are measured.
        mask_weight: factor on the loss of the rays.
        mask_on: False leaves the masks out of inference; boxes are those of the contours either
            way.
        fcos: arguments of ``FCOS``; its head a ``PolarHead``.
    """

    head: PolarHead
    head_type = PolarHead

    def __init__(
        self,
        *,
        ray_step: float = 0.5,
        mask_weight: float = 1.0,
        mask_on: bool = True,
        **fcos: Any,
    ) -> None:
        super().__init__(**fcos)
        if ray_step <= 0:
            raise ValueError(f"MODEL.POLARMASK.RAY_STEP must be above 0, got {ray_step}")
        self.ray_step = ray_step
        self.mask_weight = mask_weight
        self.mask_on = mask_on

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PolarMask:
        """From the keys of ``FCOS`` and ``MODEL.POLARMASK``."""
        node = cfg.MODEL.POLARMASK
        return cls(
            ray_step=node.RAY_STEP,
            mask_weight=node.MASK_WEIGHT,
            mask_on=cfg.MODEL.MASK_ON,
            **cls.parts_from_config(cfg),
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """ "loss_polar_cls", "loss_polar_mask" and "loss_polar_ctr".

        ``mask_features`` is the list of the box tower's maps, which rays are read from.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        dense = self.polar_training(features, targets)
        losses = dict(dense.loss.losses)
        return TrainingOutput(losses, features, self.proposals(dense), dense.head.box_tower)

    def polar_training(
        self, features: dict[str, Tensor], targets: Sequence[Faces]
    ) -> DenseTraining:
        """Head outputs, targets and losses; locations are sampled around the masks' centres."""
        head = self.head([features[level] for level in self.levels])
        assigned = self.assigner.assign(
            [(logits.shape[-2], logits.shape[-1]) for logits in head.class_logits],
            [faces.boxes for faces in targets],
            [faces.labels for faces in targets],
            [mask_centers(bitmaps(faces), faces.boxes) for faces in targets],
        )
        rays = level_major(head.distances)
        positives = assigned.positives(box_distances(rays), targets)
        wanted = self.wanted_rays(positives.points, positives.face, positives.image, targets)
        wanted = wanted / positives.strides[:, None]
        # A face without a pixel, or one that no ray meets, has no contour to teach
        known = wanted.amax(dim=1) * positives.strides > SMALLEST_RAY
        weights = torch.where(known, polar_centerness(wanted), 0.0)
        totals = mean_over_processes(
            torch.stack((weights.new_tensor(float(len(positives))), weights.sum()))
        )
        count, weight_sum = totals[0].clamp(min=1.0), totals[1].clamp(min=SMALLEST_WEIGHT)
        classes = focal_loss(
            level_major(head.class_logits),
            assigned.labels,
            alpha=self.loss.alpha,
            gamma=self.loss.gamma,
        )
        errors = polar_iou_loss(rays[assigned.positive], wanted)
        quality = functional.binary_cross_entropy_with_logits(
            level_major(head.quality_logits)[assigned.positive, 0], weights, reduction="sum"
        )
        losses = {
            "loss_polar_cls": self.loss.class_weight * classes / count,
            "loss_polar_mask": self.mask_weight * (errors * weights).sum() / weight_sum,
            "loss_polar_ctr": quality / count,
        }
        return DenseTraining(head, assigned, FCOSLossOutput(losses, positives, weights, weight_sum))

    @torch.no_grad()
    def wanted_rays(
        self, points: Tensor, face: Tensor, image: Tensor, targets: Sequence[Faces]
    ) -> Tensor:
        """Rays of faces from locations: [P, R] pixels.

        Args:
            points: [P, 2] (x, y).
            face: [P] int64 among all faces of the batch.
            image: [P] int64.
            targets: ground truth of each image.
        """
        count = self.head.box_distances.out_channels
        found = points.new_zeros(len(points), count)
        first = 0
        for position, faces in enumerate(targets):
            here = (image == position).nonzero().squeeze(1)
            if len(here):
                found[here] = ray_lengths(
                    faces.known_masks, face[here] - first, points[here], count, step=self.ray_step
                )
            first += len(faces)
        return found

    def detections(self, dense: dict[str, Tensor]) -> list[Detections]:
        """See ``FCOS.detections``; boxes reach as far as the rays."""
        logits, rays, quality = (
            levels_named(dense, name, self.levels)
            for name in ("class_logits", "distances", "quality_logits")
        )
        return self.selector.select(logits, self.side_distances(rays), quality)

    def side_distances(self, distances: Sequence[Tensor]) -> list[Tensor]:
        """How far the rays of each level [B, R, h, w] reach: [B, 4, h, w]."""
        return [box_distances(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for m in distances]

    def candidate_masks(
        self,
        dense: dict[str, Tensor],
        detections: Sequence[Detections],
        sizes: Sequence[tuple[int, int]],
    ) -> Sequence[SoftMasks | None]:
        """The contours, unless ``mask_on`` is False."""
        if not self.mask_on:
            return super().candidate_masks(dense, detections, sizes)
        maps = levels_named(dense, "distances", self.levels)
        level, image, cell = detected_cells(detections)
        widths = [one.shape[-1] for one in maps]
        points = points_of_cells(level, cell, widths, self.assigner.strides)
        strides = points.new_tensor(self.assigner.strides)[level]
        rays = values_at_cells(maps, level, image, cell).float() * strides[:, None]
        polygons = contour(points, rays).split([len(one) for one in detections])
        return [PolygonMasks(one) for one in polygons]

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The box tower's map within boxes (one [F_i, 4] per image): [F, C, size, size].

        Each box reads the level that answers for a face of its size, as MEInst's
        (docs/methods.md#comics-pixel-maps).
        """
        bounds, strides = self.assigner.sizes_of_interest, self.assigner.strides
        return pool_by_reach(output.mask_features, strides, bounds, boxes, size=size)

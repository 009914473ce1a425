"""FCOS (Tian et al. 2019, arXiv:1904.01355): dense boxes without anchors; its head is shared by
every one-stage mask detector here.

Details (centre sampling, quality on the box branch, normalisers) as in AdelaiDet, whose
``MODEL.FCOS`` keys configure it.

Shape letters: B images; C channels; K classes; h, w of a level; N locations of the batch, ordered
level -> image -> row -> column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.backbone import build_backbone
from comics.modeling.detectors.base import (
    Detector,
    ImageBatch,
    LevelProposals,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.fcos_head import FCOSHead, HeadOutput
from comics.modeling.detectors.fcos_losses import FCOSLoss, FCOSLossOutput
from comics.modeling.detectors.fcos_selection import Detections, Selector, boxes_at_cells
from comics.modeling.detectors.fcos_targets import Assignment, TargetAssigner
from comics.ops.boxes import clip_boxes, nonempty, scale_boxes
from comics.ops.roi_masks import paste_masks
from comics.registry import DETECTORS
from comics.structures import Faces

SELECTED_MAPS = ("class_logits", "distances", "quality_logits")  # of the head, read by the selector


@dataclass(frozen=True)
class DenseTraining:
    """What the dense part of a training step yields, for detectors that build on it."""

    head: HeadOutput
    targets: Assignment
    loss: FCOSLossOutput


@DETECTORS.register()
class FCOS(Detector):
    """Boxes, classes and scores; no masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        head: the predictors.
        levels: names of the pyramid's levels that the head sees, finest first.
        assigner, loss, selector: targets, losses, selection; each for the same levels.
        pixel_mean, pixel_std, pixel_format: see ``Detector``.

    Raises:
        ValueError: if the levels or their strides are not those of the backbone.
    """

    head_type: type[FCOSHead] = FCOSHead  # what ``parts_from_config`` builds

    def __init__(
        self,
        backbone: nn.Module,
        head: FCOSHead,
        *,
        levels: Sequence[str],
        assigner: TargetAssigner,
        loss: FCOSLoss,
        selector: Selector,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pixel_format: str = "RGB",
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std, pixel_format, backbone.size_divisibility)
        found = [backbone.strides.get(level) for level in levels]
        if tuple(found) != tuple(assigner.strides):
            raise ValueError(
                f"MODEL.FCOS: levels {list(levels)} have strides {found} in the backbone, which "
                f"offers {backbone.strides}; FPN_STRIDES are {list(assigner.strides)}"
            )
        self.head = head
        self.levels = tuple(levels)
        self.assigner = assigner
        self.loss = loss
        self.selector = selector

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments that every detector over this head shares."""
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": cls.head_type.from_config(cfg, backbone.out_channels),
            "levels": cfg.MODEL.FCOS.IN_FEATURES,
            "assigner": TargetAssigner.from_config(cfg),
            "loss": FCOSLoss.from_config(cfg),
            "selector": Selector.from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pixel_format": cfg.INPUT.FORMAT,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FCOS:
        """From ``MODEL.BACKBONE``, ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.FCOS``."""
        return cls(**cls.parts_from_config(cfg))

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """The three FCOS losses and the proposals assigned to faces."""
        dense = self.dense_training(features, targets)
        return TrainingOutput(dense.loss.losses, features, self.proposals(dense))

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits", "distances" and "quality_logits" per level, and ``mask_maps``."""
        head = self.head([features[level] for level in self.levels])
        found = {}
        for name in SELECTED_MAPS:
            found |= name_levels(name, self.levels, getattr(head, name))
        return found | self.mask_maps(features, head)

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """What masks need besides, as part of ``dense``; FCOS has none."""
        return {}

    def select(
        self,
        dense: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Faces]:
        """Boxes of each image, clipped to its output size; no masks."""
        return [
            to_output(*image)[0]
            for image in zip(self.detections(dense), sizes, output_sizes, strict=True)
        ]

    def detections(self, dense: dict[str, Tensor]) -> list[Detections]:
        """The detections of each image in pixels of the network's input."""
        return self.selector.select(
            *(levels_named(dense, name, self.levels) for name in SELECTED_MAPS)
        )

    def dense_training(
        self,
        features: dict[str, Tensor],
        targets: Sequence[Faces],
        centers: Sequence[Tensor] | None = None,
    ) -> DenseTraining:
        """Head outputs, targets and losses of the FCOS part.

        ``centers`` [F, 2] per image are those of the centre sampling; default: the boxes' centres.
        """
        head = self.head([features[level] for level in self.levels])
        assignment = self.assigner.assign(
            [tuple(logits.shape[-2:]) for logits in head.class_logits],
            [faces.boxes for faces in targets],
            [faces.labels for faces in targets],
            centers,
        )
        loss = self.loss(
            _level_major(head.class_logits),
            _level_major(head.distances),
            _level_major(head.quality_logits).squeeze(1),
            assignment,
        )
        return DenseTraining(head, assignment, loss)

    def proposals(self, dense: DenseTraining) -> dict[str, LevelProposals]:
        """Every location that answers for a face, with the box predicted there."""
        targets, positive = dense.targets, dense.targets.positive
        level_of, image = targets.level[positive], targets.image[positive]
        face = targets.face[positive] - targets.first_face[image]
        found = {}
        for index, (name, stride) in enumerate(
            zip(self.levels, self.assigner.strides, strict=True)
        ):
            here = (level_of == index).nonzero().squeeze(1)
            cell = targets.cell[positive[here]]
            maps = dense.head.distances[index].detach()
            distances = maps.flatten(2)[image[here], :, cell]
            boxes = boxes_at_cells(distances, cell, maps.shape[-2:], stride)
            found[name] = LevelProposals(image[here], face[here], boxes, cell)
        return found


class SquareMaskFCOS(FCOS):
    """FCOS with a square mask that fills each detection's box; subclasses say which.

    Args:
        paste_clipped: see ``to_output_with_masks``.
        mask_on: False leaves the masks out of inference.
        fcos: arguments of ``FCOS``.
    """

    def __init__(self, *, paste_clipped: bool, mask_on: bool, **fcos) -> None:
        super().__init__(**fcos)
        self.paste_clipped = paste_clipped
        self.mask_on = mask_on

    def select(
        self,
        dense: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Faces]:
        """Faces of each image, with masks of its output size unless ``mask_on`` is False."""
        if not self.mask_on:
            return super().select(dense, sizes, output_sizes)
        detections = self.detections(dense)
        squares = self.square_masks(dense, detections)
        return [
            to_output_with_masks(*image, paste_clipped=self.paste_clipped)
            for image in zip(detections, squares, sizes, output_sizes, strict=True)
        ]

    def square_masks(
        self, dense: dict[str, Tensor], detections: Sequence[Detections]
    ) -> list[Tensor]:
        """Per image the soft masks [P, R, R] in [0, 1] that fill the detections' boxes."""
        raise NotImplementedError


def to_output(
    found: Detections, size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[Faces, Tensor]:
    """Scale boxes to the output, clip them, drop those without area.

    Args:
        found: detections in pixels of the network's input.
        size: (height, width) of the network's input before padding.
        output_size: (height, width) asked for.

    Returns:
        The faces, without masks, and [N] bool telling which detections they are.
    """
    scale_y, scale_x = output_size[0] / size[0], output_size[1] / size[1]
    boxes = clip_boxes(scale_boxes(found.boxes, scale_x, scale_y), output_size)
    keep = nonempty(boxes)
    faces = Faces(
        boxes=boxes[keep],
        image_size=(output_size[0], output_size[1]),
        labels=found.labels[keep],
        scores=found.scores[keep],
    )
    return faces, keep


def to_output_with_masks(
    found: Detections,
    soft: Tensor,
    size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    paste_clipped: bool,
) -> Faces:
    """``to_output``, with square masks pasted into the boxes.

    Args:
        found: N detections in pixels of the network's input.
        soft: [N, R, R] in [0, 1], the masks that fill the detections' boxes.
        size, output_size: as in ``to_output``.
        paste_clipped: paste into the boxes clipped to the image, which squeezes masks of faces
            that reach over the border (AdelaiDet's rule); False: into the whole boxes.
    """
    faces, keep = to_output(found, size, output_size)
    boxes = faces.boxes
    if not paste_clipped:
        scale_y, scale_x = output_size[0] / size[0], output_size[1] / size[1]
        boxes = scale_boxes(found.boxes[keep], scale_x, scale_y)
    return replace(faces, masks=paste_masks(soft[keep], boxes, faces.image_size))


def _level_major(maps: Sequence[Tensor]) -> Tensor:
    """Per level [B, C, h, w] to [N, C]."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])

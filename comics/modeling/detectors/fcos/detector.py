"""FCOS (Tian et al. 2019, arXiv:1904.01355): dense boxes without anchors; the mask detectors of one
stage build on it.

Its head (section 3.1 and figure 2), the selection of detections, and the detector; targets and
losses are in ``comics.modeling.detectors.fcos.training``. Details (centre sampling, quality on the
box branch, normalisers) as in AdelaiDet, whose ``MODEL.FCOS`` keys configure it.

Shape letters: B images; C channels; K classes; h, w of a level; N locations of the batch, ordered
level -> image -> row -> column, or detections of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.backbone import Pyramid, build_backbone
from comics.modeling.detectors.base import (
    Detector,
    ImageBatch,
    LevelBoxes,
    LevelProposals,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates, SoftMasks, SquareMasks
from comics.modeling.detectors.cells import boxes_at_cells, image_of_each
from comics.modeling.detectors.fcos.training import (
    Assignment,
    FCOSLoss,
    FCOSLossOutput,
    TargetAssigner,
)
from comics.modeling.detectors.quality import Positives, Quality, make_quality
from comics.modeling.detectors.towers import (
    DeformableTowers,
    initialise_convs,
    make_tower,
    run_tower,
)
from comics.modeling.layers import fill_bias
from comics.ops.boxes import clip_boxes
from comics.ops.compiled import batched_nms
from comics.ops.transfers import on_device, on_host
from comics.registry import DETECTORS
from comics.structures import Faces

SELECTED_MAPS = ("class_logits", "distances", "quality_logits")  # of the head, read by the selector
REJECTED = -1.0  # ranks below any product of two probabilities


@dataclass(frozen=True)
class HeadOutput:
    """Predictions per level, finest first.

    Attributes:
        class_logits: [B, K, h, w] each.
        distances: [B, 4, h, w] each, left, top, right, bottom in strides, >= 0.
        quality_logits: [B, 1, h, w] each.
        box_tower: [B, C, h, w] each, the input of the box predictor.
        shared: [B, C, h, w] each, what all towers start from.
    """

    class_logits: list[Tensor]
    distances: list[Tensor]
    quality_logits: list[Tensor]
    box_tower: list[Tensor]
    shared: list[Tensor]


class FCOSHead(nn.Module):
    """Towers and predictors, the same for every level.

    Args:
        in_channels: C of the pyramid.
        num_classes: K.
        num_levels: of the pyramid.
        num_class_convs, num_box_convs, num_share_convs: depths of the towers; the shared runs
            before the other two.
        norm: of the towers, "GN", "BN", "SyncBN" or "none".
        use_scale: a learnt factor per level on the box predictor.
        prior: initial probability of a class at a location, in (0, 1).
        deformable: which convolutions of the towers are deformable; None: none.

    Raises:
        ValueError: for an unknown norm or deformable convolution, or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_levels: int,
        num_class_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_scale: bool = True,
        prior: float = 0.01,
        deformable: DeformableTowers | None = None,
    ) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.FCOS.PRIOR_PROB must lie in (0, 1), got {prior}")
        tower = partial(make_tower, in_channels, norm=norm, num_levels=num_levels)
        in_shared = deformable if deformable is not None and deformable.shared else None
        self.share_tower = tower(num_share_convs, deformable=in_shared)
        self.class_tower = tower(num_class_convs, deformable=deformable)
        self.box_tower = tower(num_box_convs, deformable=deformable)
        self.class_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(1)) for _ in range(num_levels if use_scale else 0)
        )
        initialise_convs(self)
        fill_bias(self.class_logits, -math.log((1 - prior) / prior))

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return {
            "num_classes": node.NUM_CLASSES,
            "num_levels": len(node.IN_FEATURES),
            "num_class_convs": node.NUM_CLS_CONVS,
            "num_box_convs": node.NUM_BOX_CONVS,
            "num_share_convs": node.NUM_SHARE_CONVS,
            "norm": node.NORM,
            "use_scale": node.USE_SCALE,
            "prior": node.PRIOR_PROB,
            "deformable": DeformableTowers() if node.USE_DEFORMABLE else None,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> FCOSHead:
        """From the keys that ``settings`` reads."""
        return cls(in_channels, **cls.settings(cfg))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = HeadOutput([], [], [], [], [])
        for level, feature in enumerate(features):
            shared = run_tower(self.share_tower, feature, level)
            box_tower = run_tower(self.box_tower, shared, level)
            raw = self.box_distances(box_tower).float()
            if len(self.scales):
                raw = raw * self.scales[level]
            class_tower = run_tower(self.class_tower, shared, level)
            output.class_logits.append(self.class_logits(class_tower).float())
            output.distances.append(self.positive(raw))
            output.quality_logits.append(self.quality(box_tower).float())
            output.box_tower.append(box_tower)
            output.shared.append(shared)
        return output

    def positive(self, raw: Tensor) -> Tensor:
        """Distances in strides from what the box predictor gives, times the level's factor."""
        return functional.relu(raw)


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first, before scaling to the output.

    Attributes:
        boxes: [N, 4] pixels of the network's input, not clipped.
        scores: [N] in [0, 1].
        labels: [N] int64.
        level: [N] int64, position among the levels.
        cell: [N] int64, row * w + column in the level's map.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    level: Tensor
    cell: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Detections:
        """Select by an index or bool tensor."""
        return Detections(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Selector:
    """Thresholds and limits of the selection.

    Attributes:
        strides: pixels per cell, per level.
        score_threshold: candidates are above it.
        threshold_with_quality: compare class probability times quality with it, not the class
            probability alone.
        nms_threshold: IoU of the per-class suppression; <= 0 disables it.
        pre_nms_topk: candidates per level and image.
        post_nms_topk: detections per image; more only where scores are equal.
    """

    strides: tuple[int, ...]
    score_threshold: float = 0.05
    threshold_with_quality: bool = False
    nms_threshold: float = 0.6
    pre_nms_topk: int = 1000
    post_nms_topk: int = 100

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Selector:
        """From ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return cls(
            strides=tuple(node.FPN_STRIDES),
            score_threshold=node.SCORE_THRESH_TEST,
            threshold_with_quality=node.THRESH_WITH_CTR,
            nms_threshold=node.NMS_TH,
            pre_nms_topk=node.PRE_NMS_TOPK_TEST,
            post_nms_topk=node.POST_NMS_TOPK_TEST,
        )

    def select(
        self,
        class_logits: Sequence[Tensor],
        distances: Sequence[Tensor],
        quality_logits: Sequence[Tensor],
    ) -> list[Detections]:
        """Detections of each image.

        The score is sqrt(class probability * quality); the product ranks the candidates.

        Args:
            class_logits: per level [B, K, h, w].
            distances: per level [B, 4, h, w], in strides.
            quality_logits: per level [B, 1, h, w].
        """
        levels = [
            self._candidates(index, *maps)
            for index, maps in enumerate(zip(class_logits, distances, quality_logits, strict=True))
        ]
        rank, boxes, labels, level, cell = (
            torch.cat(part, dim=1) for part in zip(*levels, strict=True)
        )
        chosen = []
        kept = on_host(rank > REJECTED)[0]
        for image in range(len(rank)):
            keep = on_device(kept[image].nonzero()[0], rank.device)
            candidates = Detections(
                boxes[image][keep],
                rank[image][keep].sqrt(),
                labels[image][keep],
                level[image][keep],
                cell[image][keep],
            )
            chosen.append(self._suppress(candidates))
        return chosen

    def _candidates(
        self, index: int, class_logits: Tensor, distances: Tensor, quality_logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Best (location, class) pairs of a level: [B, T] each, boxes [B, T, 4]."""
        classes = class_logits.shape[1]
        probability = class_logits.float().flatten(2).sigmoid().transpose(1, 2)  # [B, h * w, K]
        product = probability * quality_logits.float().flatten(2).sigmoid().transpose(1, 2)
        tested = product if self.threshold_with_quality else probability
        ranked = torch.where(tested > self.score_threshold, product, REJECTED).flatten(1)
        rank, pair = ranked.topk(min(self.pre_nms_topk, ranked.shape[1]), dim=1)
        cell = pair // classes
        chosen = (
            distances.float()
            .flatten(2)
            .transpose(1, 2)
            .gather(1, cell[..., None].expand(-1, -1, 4))
        )
        boxes = boxes_at_cells(chosen, cell, class_logits.shape[-2:], self.strides[index])
        return rank, boxes, pair % classes, torch.full_like(cell, index), cell

    def _suppress(self, candidates: Detections) -> Detections:
        if not len(candidates):
            return candidates
        if self.nms_threshold > 0:
            kept = batched_nms(
                candidates.boxes, candidates.scores, candidates.labels, self.nms_threshold
            )
        else:
            kept = candidates.scores.argsort(descending=True, stable=True)
        if len(kept) <= self.post_nms_topk:
            return candidates[kept]
        ranked = candidates.scores[kept]
        lowest = ranked.topk(self.post_nms_topk).values[-1]
        return candidates[kept[(ranked >= lowest).nonzero().squeeze(1)]]


def detected_cells(found: Sequence[Detections]) -> tuple[Tensor, Tensor, Tensor]:
    """Level, image and cell, [P] int64 each, of the detections of all images, in order."""
    level = torch.cat([one.level for one in found])
    cell = torch.cat([one.cell for one in found])
    return level, image_of_each([one.boxes for one in found]), cell


@dataclass(frozen=True)
class DenseTraining:
    """What the dense part of a training step yields, for detectors that build on it."""

    head: HeadOutput
    targets: Assignment
    loss: FCOSLossOutput

    @property
    def positives(self) -> Positives:
        """The locations that answer for a face."""
        return self.loss.positives


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
        backbone: Pyramid,
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
            "loss": FCOSLoss.from_config(cfg, cls.quality_from_config(cfg)),
            "selector": Selector.from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pixel_format": cfg.INPUT.FORMAT,
        }

    @classmethod
    def quality_from_config(cls, cfg: CfgNode) -> Quality:
        """What the quality branch learns; a detector with a quality of its own overrides it."""
        return make_quality(cfg.MODEL.FCOS.BOX_QUALITY)

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

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """Every location, with the box predicted there."""
        head, found = self.head([features[level] for level in self.levels]), {}
        for name, stride, distances in zip(
            self.levels, self.assigner.strides, self.side_distances(head.distances), strict=True
        ):
            images, cells = len(distances), distances[0, 0].numel()
            cell = torch.arange(cells, device=distances.device).repeat(images)
            image = torch.arange(images, device=cell.device).repeat_interleave(cells)
            flat = distances.flatten(2).transpose(1, 2).flatten(0, 1)
            boxes = boxes_at_cells(flat, cell, distances.shape[-2:], stride)
            found[name] = LevelBoxes(image, boxes, cell)
        return found

    def side_distances(self, distances: Sequence[Tensor]) -> list[Tensor]:
        """Per level distances to the sides of the box [B, 4, h, w], from the head's ``distances``:
        these themselves.
        """
        return list(distances)

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits", "distances" and "quality_logits" per level, and ``mask_maps``."""
        head = self.head([features[level] for level in self.levels])
        found: dict[str, Tensor] = {}
        for name in SELECTED_MAPS:
            found |= name_levels(name, self.levels, getattr(head, name))
        return found | self.mask_maps(features, head)

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """What masks need besides, as part of ``dense``; FCOS has none."""
        return {}

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        detections = self.detections(dense)
        masks = self.candidate_masks(dense, detections, sizes)
        return [
            Candidates.of(one.boxes, one.scores, one.labels, size, soft)
            for one, soft, size in zip(detections, masks, sizes, strict=True)
        ]

    def candidate_masks(
        self,
        dense: dict[str, Tensor],
        detections: Sequence[Detections],
        sizes: Sequence[tuple[int, int]],
    ) -> Sequence[SoftMasks | None]:
        """The masks of each image's detections; FCOS has none."""
        return [None] * len(detections)

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
            level_major(head.class_logits),
            level_major(head.distances),
            level_major(head.quality_logits).squeeze(1),
            assignment,
            targets,
        )
        return DenseTraining(head, assignment, loss)

    def proposals(self, dense: DenseTraining) -> dict[str, LevelProposals]:
        """Every location that answers for a face, with the box predicted there."""
        found, positives = dense.positives, {}
        face = found.face - dense.targets.first_face[found.image]
        every = (found.image, face, found.predicted.detach(), found.cell)
        by_level = zip(*(one.split(found.level_sizes) for one in every), strict=True)
        for name, stride, distances, (image, face, predicted, cell) in zip(
            self.levels, self.assigner.strides, dense.head.distances, by_level, strict=True
        ):
            boxes = boxes_at_cells(predicted, cell, distances.shape[-2:], stride)
            positives[name] = LevelProposals(image, face, boxes, cell)
        return positives


class SquareMaskFCOS(FCOS):
    """FCOS with a square mask that fills each detection's box; subclasses say which.

    Args:
        paste_clipped: masks fill the boxes clipped to the image, which squeezes those of faces
            that reach over the border (AdelaiDet's rule); False: the whole boxes, which keeps them
            in place.
        mask_on: False leaves the masks out of inference.
        fcos: arguments of ``FCOS``.
    """

    def __init__(self, *, paste_clipped: bool, mask_on: bool, **fcos: Any) -> None:
        super().__init__(**fcos)
        self.paste_clipped = paste_clipped
        self.mask_on = mask_on

    def candidate_masks(
        self,
        dense: dict[str, Tensor],
        detections: Sequence[Detections],
        sizes: Sequence[tuple[int, int]],
    ) -> Sequence[SoftMasks | None]:
        """Of ``square_masks``, unless ``mask_on`` is False."""
        if not self.mask_on:
            return super().candidate_masks(dense, detections, sizes)
        boxes = [one.boxes for one in detections]
        if self.paste_clipped:
            boxes = [clip_boxes(one, size) for one, size in zip(boxes, sizes, strict=True)]
        squares = self.square_masks(dense, detections)
        return [SquareMasks(soft, where) for soft, where in zip(squares, boxes, strict=True)]

    def square_masks(
        self, dense: dict[str, Tensor], detections: Sequence[Detections]
    ) -> list[Tensor]:
        """Per image the soft masks [P, R, R] in [0, 1] that fill the detections' boxes."""
        raise NotImplementedError


def level_major(maps: Sequence[Tensor]) -> Tensor:
    """Per level [B, C, h, w] to [N, C]."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])

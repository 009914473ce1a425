"""YOLACT (Bolya et al. 2019, arXiv:1904.02689): anchors that bring coefficients, with which a few
prototypes of the image are added up to a face's mask. docs/methods.md#yolact.

Shape letters: B images; C channels; K classes; A anchors per cell; R anchors of an image; D
prototypes; N detections; h, w of the prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.backbone import Pyramid, build_backbone
from comics.modeling.detectors.anchor_targets import (
    AnchorTargets,
    anchor_proposals,
    assign_anchors,
    decoded_boxes,
    every_anchor,
    per_anchor,
)
from comics.modeling.detectors.anchors import PyramidAnchors
from comics.modeling.detectors.base import (
    Detector,
    ImageBatch,
    LevelBoxes,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates, GridMasks
from comics.modeling.detectors.deltas import DeltaCoder
from comics.modeling.detectors.mask_rcnn import require_levels
from comics.modeling.detectors.pooling import pool_map
from comics.modeling.detectors.solov2 import shrink_masks
from comics.modeling.detectors.target_masks import bitmaps, require_masks
from comics.modeling.detectors.yolact.heads import (
    BOX,
    ENLARGEMENT,
    AnchorPredictions,
    PredictionHead,
    PrototypeNet,
    initialise_xavier,
)
from comics.modeling.detectors.yolact.losses import (
    hard_negative_loss,
    inside_boxes,
    mask_errors,
    mask_logits,
    semantic_loss,
)
from comics.modeling.detectors.yolact.selection import AnchorSelector
from comics.ops.boxes import clip_boxes
from comics.registry import DETECTORS
from comics.structures import Faces

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # SSD's variances 0.1 and 0.2


@DETECTORS.register()
class YOLACT(Detector):
    """One-stage detector with anchors, and masks of the whole image.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        head, anchors: predictors and anchors of ``levels``.
        prototype_net: of the first level.
        levels: names of the levels that predict, finest first.
        num_classes: K.
        iou_thresholds: see ``match_anchors``.
        negatives_per_positive: anchors of the background in the class loss.
        masks_per_image: positives whose masks are trained, drawn at random.
        class_weight, box_weight, mask_weight, semantic_weight: factors on the losses.
        selector: of anchors.
        mask_on: False leaves the masks out of inference.
        base: ``pixel_mean``, ``pixel_std``, ``pixel_format``, see ``Detector``.
    """

    def __init__(
        self,
        backbone: Pyramid,
        head: PredictionHead,
        anchors: PyramidAnchors,
        prototype_net: PrototypeNet,
        *,
        levels: Sequence[str],
        num_classes: int,
        iou_thresholds: tuple[float, float] = (0.4, 0.5),
        negatives_per_positive: int = 3,
        masks_per_image: int = 100,
        class_weight: float = 1.0,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        semantic_weight: float = 1.0,
        selector: AnchorSelector,
        mask_on: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(backbone, size_divisibility=backbone.size_divisibility, **base)
        self.head = head
        self.anchors = anchors
        self.prototype_net = prototype_net
        self.semantic = nn.Conv2d(backbone.out_channels, num_classes, 1)
        initialise_xavier(self.semantic)
        self.levels = tuple(levels)
        self.num_classes = num_classes
        self.background, self.foreground = iou_thresholds
        self.negatives_per_positive = negatives_per_positive
        self.masks_per_image = masks_per_image
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.mask_weight = mask_weight
        self.semantic_weight = semantic_weight
        self.selector = selector
        self.mask_on = mask_on
        self.coder = DeltaCoder(weights=BOX_WEIGHTS)
        self.level_stride = backbone.strides[self.levels[0]]
        self.mask_stride = self.level_stride // ENLARGEMENT

    @classmethod
    def from_config(cls, cfg: CfgNode) -> YOLACT:
        """From ``MODEL.YOLACT`` and ``MODEL.ANCHOR_GENERATOR``.

        Raises:
            ValueError: for levels that the pyramid lacks.
        """
        return cls(**cls.parts_from_config(cfg))

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments; errors as ``from_config``."""
        node, generator = cfg.MODEL.YOLACT, cfg.MODEL.ANCHOR_GENERATOR
        backbone = build_backbone(cfg)
        require_levels(backbone.strides, "YOLACT.IN_FEATURES", node.IN_FEATURES)
        anchors = PyramidAnchors(
            generator.SIZES,
            generator.ASPECT_RATIOS,
            [backbone.strides[level] for level in node.IN_FEATURES],
            generator.OFFSET,
        )
        return {
            "backbone": backbone,
            "head": PredictionHead(
                backbone.out_channels,
                num_classes=node.NUM_CLASSES,
                per_cell=anchors.num_anchors_per_location()[0],
                num_prototypes=node.NUM_PROTOTYPES,
            ),
            "anchors": anchors,
            "prototype_net": PrototypeNet.from_config(cfg, backbone.out_channels),
            "levels": node.IN_FEATURES,
            "num_classes": node.NUM_CLASSES,
            "iou_thresholds": tuple(node.IOU_THRESHOLDS),
            "negatives_per_positive": node.NEGATIVES_PER_POSITIVE,
            "masks_per_image": node.MASKS_PER_IMAGE,
            "class_weight": node.CLASS_WEIGHT,
            "box_weight": node.BOX_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "semantic_weight": node.SEMANTIC_WEIGHT,
            "selector": AnchorSelector(
                node.SCORE_THRESH_TEST,
                node.NMS_TOPK_TEST,
                node.NMS_THRESH_TEST,
                node.NMS_TYPE,
                cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "mask_on": cfg.MODEL.MASK_ON,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pixel_format": cfg.INPUT.FORMAT,
        }

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """ "loss_cls", "loss_box_reg", "loss_mask" and "loss_sem".

        ``mask_features`` is the map that the prototypes are read from.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        output = self.head([features[level] for level in self.levels])
        prototypes, last = self.prototype_net(features[self.levels[0]])
        anchors = self.anchors.of_image(output.deltas)
        assigned = assign_anchors(
            anchors,
            targets,
            num_classes=self.num_classes,
            background=self.background,
            foreground=self.foreground,
        )
        losses = self.anchor_losses(output, anchors, assigned)
        losses |= self.mask_losses(output, prototypes, assigned, targets)
        semantic = semantic_loss(
            self.semantic(features[self.levels[0]]).float(), targets, self.level_stride
        )
        losses["loss_sem"] = self.semantic_weight * semantic
        proposals = anchor_proposals(
            assigned,
            decoded_boxes(self.coder, output.deltas, anchors),
            self.levels,
            [(m.shape[-2], m.shape[-1]) for m in output.deltas],
            self.anchors.num_anchors_per_location()[0],
        )
        return TrainingOutput(losses, features, proposals, last)

    def anchor_losses(
        self, output: AnchorPredictions, anchors: Tensor, assigned: AnchorTargets
    ) -> dict[str, Tensor]:
        """Class and box loss, sums over the number of positives.

        Args:
            output: of the head.
            anchors: [R, 4].
            assigned: targets.
        """
        positive = assigned.positive
        count = positive.sum().clamp(min=1)
        logits = per_anchor(output.class_logits, self.num_classes + 1)
        classes = hard_negative_loss(logits, assigned.labels, self.negatives_per_positive)
        every = anchors.expand(len(positive), -1, -1)
        wanted = self.coder.encode_single(assigned.boxes[positive], every[positive])
        boxes = functional.smooth_l1_loss(
            per_anchor(output.deltas, BOX)[positive], wanted, reduction="sum"
        )
        return {
            "loss_cls": self.class_weight * classes / count,
            "loss_box_reg": self.box_weight * boxes / count,
        }

    def mask_losses(
        self,
        output: AnchorPredictions,
        prototypes: Tensor,
        assigned: AnchorTargets,
        targets: Sequence[Faces],
    ) -> dict[str, Tensor]:
        """ "loss_mask": mean over the positives of ``mask_errors``; 0 without positives.

        Of an image with more than ``masks_per_image`` positives, those drawn stand for all.
        """
        counts = assigned.positive.sum(dim=1)
        total = prototypes.sum() * 0  # exact, and with a gradient, also without faces
        drawn = self.positive_masks(output, prototypes, assigned, targets)
        for image, (coefficients, masks, boxes, _) in enumerate(drawn):
            total = total + coefficients.sum() * 0
            if len(coefficients):
                logits = mask_logits(coefficients, prototypes[image])
                errors = mask_errors(logits, masks, boxes, self.mask_stride)
                total = total + errors.mean() * counts[image]
        return {"loss_mask": self.mask_weight * total / counts.sum().clamp(min=1)}

    def positive_masks(
        self,
        output: AnchorPredictions,
        prototypes: Tensor,
        assigned: AnchorTargets,
        targets: Sequence[Faces],
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Per image, of at most ``masks_per_image`` positives: coefficients [N, D], the faces'
        masks on the prototypes' cells [N, h, w] bool, their boxes [N, 4], and which faces [N].
        """
        every = per_anchor(output.coefficients, self.prototype_count)
        size = (prototypes.shape[-2], prototypes.shape[-1])
        found = []
        for image, faces in enumerate(targets):
            anchor = assigned.positive[image].nonzero().squeeze(1)
            order = torch.randperm(len(anchor), device=anchor.device)
            drawn = anchor[order][: self.masks_per_image]
            face = assigned.face[image, drawn]
            masks = shrink_masks(bitmaps(faces), self.mask_stride, size, "aligned")
            found.append((every[image, drawn], masks[face], assigned.boxes[image, drawn], face))
        return found

    @property
    def prototype_count(self) -> int:
        """D."""
        return self.prototype_net.prototypes.out_channels

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits", "deltas" and "coefficients" of each level, and the "prototypes"."""
        output = self.head([features[level] for level in self.levels])
        found = {
            **name_levels("class_logits", self.levels, output.class_logits),
            **name_levels("deltas", self.levels, output.deltas),
        }
        if self.mask_on:
            found |= name_levels("coefficients", self.levels, output.coefficients)
            found["prototypes"] = self.prototype_net(features[self.levels[0]])[0]
        return found

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        logits = per_anchor(levels_named(dense, "class_logits", self.levels), self.num_classes + 1)
        deltas = levels_named(dense, "deltas", self.levels)
        boxes = decoded_boxes(self.coder, deltas, self.anchors.of_image(deltas))
        scores = logits.softmax(dim=2)[..., :-1]
        coefficients = None
        if self.mask_on:
            maps = levels_named(dense, "coefficients", self.levels)
            coefficients = per_anchor(maps, self.prototype_count)
        found = []
        for image, size in enumerate(sizes):
            its_boxes = clip_boxes(boxes[image], size)
            one = self.selector.select(scores[image], its_boxes)
            chosen = its_boxes[one.anchor]
            if coefficients is None:
                found.append(Candidates.of(chosen, one.scores, one.labels, size))
                continue
            its_own = coefficients[image, one.anchor]
            soft = self.soft_masks(its_own, dense["prototypes"][image], chosen)
            score = self.rescored(one.scores, soft, one.labels)
            order = score.argsort(descending=True, stable=True)
            masks = GridMasks(soft[order], self.mask_stride, aligned=False)
            found.append(Candidates.of(chosen[order], score[order], one.labels[order], size, masks))
        return found

    def soft_masks(self, coefficients: Tensor, prototypes: Tensor, boxes: Tensor) -> Tensor:
        """Masks [N, h, w] in [0, 1] of one image, 0 outside their boxes.

        Args:
            coefficients: [N, D].
            prototypes: [D, h, w].
            boxes: [N, 4] pixels.
        """
        with torch.autocast(prototypes.device.type, enabled=False):
            soft = mask_logits(coefficients.float(), prototypes.float()).sigmoid()
        return soft * inside_boxes(boxes, (soft.shape[1], soft.shape[2]), self.mask_stride)

    def rescored(self, scores: Tensor, soft: Tensor, labels: Tensor) -> Tensor:
        """Scores [N] of detections with soft masks [N, h, w]; YOLACT's own are those of classes."""
        return scores

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """Every anchor, with the box predicted there."""
        deltas = self.head([features[level] for level in self.levels]).deltas
        return every_anchor(
            decoded_boxes(self.coder, deltas, self.anchors.of_image(deltas)),
            self.levels,
            [(m.shape[-2], m.shape[-1]) for m in deltas],
            self.anchors.num_anchors_per_location()[0],
        )

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The map of the prototypes within boxes (one [F_i, 4] per image): [F, C, size, size]."""
        return pool_map(output.mask_features, boxes, size, 1 / self.mask_stride)

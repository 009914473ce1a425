"""RetinaMask (Fu, Shvets, Berg 2019, arXiv:1901.03353): RetinaNet (Lin et al. 2017,
arXiv:1708.02002) with a box loss that adjusts itself, an anchor for every face, and Mask R-CNN's
mask head on its boxes. docs/methods.md#retinamask.

Keys of RetinaNet are Detectron2's, ``MODEL.RETINANET`` and ``MODEL.ANCHOR_GENERATOR``.

Shape letters: B images; C channels; K classes; A anchors per cell; R anchors of an image; h, w of a
level; N detections of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    ImageBatch,
    LevelBoxes,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.detectors.deltas import DeltaCoder
from comics.modeling.detectors.mask_rcnn import (
    BoxDetections,
    MaskHead,
    PooledMaskDetector,
    ProposalSampler,
    require_levels,
)
from comics.modeling.detectors.pooling import PyramidPooler
from comics.modeling.detectors.retinamask.losses import SelfAdjustingSmoothL1
from comics.modeling.detectors.target_masks import require_masks
from comics.modeling.detectors.towers import initialise_convs, make_tower, run_tower
from comics.modeling.layers import fill_bias
from comics.ops.boxes import clip_boxes
from comics.ops.compiled import batched_nms
from comics.ops.losses import focal_loss
from comics.registry import DETECTORS
from comics.structures import Faces

BOX = 4  # numbers of a box


class RetinaHead(nn.Module):
    """Towers and predictors, the same for every level.

    Args:
        in_channels: C.
        num_classes: K.
        per_cell: A.
        num_levels: of the pyramid.
        num_convs: depth of both towers.
        norm: of the towers, "", "GN", "BN" or "SyncBN".
        prior: initial probability of a class, in (0, 1).

    Raises:
        ValueError: for an unknown norm or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        per_cell: int,
        num_levels: int,
        num_convs: int = 4,
        norm: str = "",
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.RETINANET.PRIOR_PROB must lie in (0, 1), got {prior}")
        self.class_tower = make_tower(in_channels, num_convs, norm=norm, num_levels=num_levels)
        self.box_tower = make_tower(in_channels, num_convs, norm=norm, num_levels=num_levels)
        self.class_logits = nn.Conv2d(in_channels, per_cell * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(in_channels, per_cell * BOX, 3, padding=1)
        initialise_convs(self)
        fill_bias(self.class_logits, -math.log((1 - prior) / prior))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level class logits [B, A K, h, w] and deltas [B, 4 A, h, w], float32."""
        logits, deltas = [], []
        for level, feature in enumerate(features):
            classes = self.class_logits(run_tower(self.class_tower, feature, level))
            boxes = self.box_deltas(run_tower(self.box_tower, feature, level))
            logits.append(classes.float())
            deltas.append(boxes.float())
        return logits, deltas


@dataclass(frozen=True)
class AnchorSelector:
    """Thresholds and limits of the selection.

    Attributes:
        score_threshold: candidates need a class probability above it.
        candidates_per_level: of an image.
        nms_threshold: IoU of the suppression, per class.
        detections_per_image: at most.
    """

    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def select(
        self, scores: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, int]
    ) -> BoxDetections:
        """Detections of one image, best first.

        Args:
            scores: per level [r, K] in [0, 1].
            boxes: per level [r, 4] pixels.
            size: (height, width) of the image before padding, which boxes are clipped to.
        """
        found = []
        for level, its_boxes in zip(scores, boxes, strict=True):
            flat = level.flatten()
            best = flat.topk(min(self.candidates_per_level, len(flat)))
            row, label = best.indices // level.shape[1], best.indices % level.shape[1]
            found.append((its_boxes[row], best.values, label))
        every, score, label = (torch.cat(part) for part in zip(*found, strict=True))
        above = (score > self.score_threshold).nonzero().squeeze(1)
        every, score, label = clip_boxes(every[above], size), score[above], label[above]
        kept = batched_nms(every, score, label, self.nms_threshold)[: self.detections_per_image]
        return BoxDetections(every[kept], score[kept], label[kept])


@DETECTORS.register()
class RetinaMask(PooledMaskDetector):
    """One-stage detector with anchors and masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        head, anchors: predictors and anchors of ``levels``.
        levels: names of the levels that predict boxes, finest first.
        num_classes: K.
        iou_thresholds: see ``match_anchors``.
        box_weights: factors on the deltas (dx, dy, dw, dh).
        box_loss: of the deltas.
        alpha, gamma: of the focal loss.
        selector: of boxes.
        sampler: draws the boxes that masks are learnt from.
        mask_pooler, mask_head, mask_on: see ``PooledMaskDetector``.
        base: ``pixel_mean``, ``pixel_std``, ``pixel_format``, see ``Detector``.
    """

    selection_parts = ("mask_head",)

    def __init__(
        self,
        backbone: Pyramid,
        head: RetinaHead,
        anchors: PyramidAnchors,
        *,
        levels: Sequence[str],
        num_classes: int,
        iou_thresholds: tuple[float, float] = (0.4, 0.5),
        box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        box_loss: SelfAdjustingSmoothL1,
        alpha: float = 0.25,
        gamma: float = 2.0,
        selector: AnchorSelector,
        sampler: ProposalSampler,
        mask_pooler: PyramidPooler,
        mask_head: MaskHead,
        mask_on: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(backbone, size_divisibility=backbone.size_divisibility, **base)
        self.head = head
        self.anchors = anchors
        self.levels = tuple(levels)
        self.num_classes = num_classes
        self.background, self.foreground = iou_thresholds
        self.coder = DeltaCoder(weights=tuple(box_weights))
        self.box_loss = box_loss
        self.alpha, self.gamma = alpha, gamma
        self.selector = selector
        self.sampler = sampler
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_iou_head = None
        self.mask_on = mask_on
        self.pooled_heads = ("mask_head",) if mask_on else ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RetinaMask:
        """From ``MODEL.RETINANET``, ``MODEL.ANCHOR_GENERATOR``, ``MODEL.ROI_HEADS`` (the sampling),
        ``MODEL.ROI_MASK_HEAD`` and ``TEST.DETECTIONS_PER_IMAGE``.

        Raises:
            ValueError: for levels that the pyramid lacks, or numbers of classes that differ.
        """
        node, heads = cfg.MODEL.RETINANET, cfg.MODEL.ROI_HEADS
        if heads.NUM_CLASSES != node.NUM_CLASSES:
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {heads.NUM_CLASSES}, "
                f"MODEL.RETINANET.NUM_CLASSES {node.NUM_CLASSES}: RetinaMask needs one number"
            )
        backbone = build_backbone(cfg)
        require_levels(backbone.strides, "RETINANET.IN_FEATURES", node.IN_FEATURES)
        require_levels(backbone.strides, "RETINANET.MASK_IN_FEATURES", node.MASK_IN_FEATURES)
        anchors = PyramidAnchors(
            cfg.MODEL.ANCHOR_GENERATOR.SIZES,
            cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS,
            [backbone.strides[level] for level in node.IN_FEATURES],
            cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        )
        return cls(
            backbone,
            RetinaHead(
                backbone.out_channels,
                num_classes=node.NUM_CLASSES,
                per_cell=anchors.num_anchors_per_location()[0],
                num_levels=len(node.IN_FEATURES),
                num_convs=node.NUM_CONVS,
                norm=node.NORM,
                prior=node.PRIOR_PROB,
            ),
            anchors,
            levels=node.IN_FEATURES,
            num_classes=node.NUM_CLASSES,
            iou_thresholds=tuple(node.IOU_THRESHOLDS),
            box_weights=node.BBOX_REG_WEIGHTS,
            box_loss=SelfAdjustingSmoothL1(
                node.SMOOTH_L1_LOSS_BETA,
                momentum=node.SMOOTH_L1_MOMENTUM,
                adjusting=node.SELF_ADJUSTING,
            ),
            alpha=node.FOCAL_LOSS_ALPHA,
            gamma=node.FOCAL_LOSS_GAMMA,
            **_selection_parts(cfg, backbone),
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """ "loss_cls", "loss_box_reg" and "loss_mask".

        ``mask_features`` is the finest level that masks are pooled from, as of Mask R-CNN.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        logits, deltas = self.head([features[level] for level in self.levels])
        anchors = self.anchors.of_image(logits)
        assigned = assign_anchors(
            anchors,
            targets,
            num_classes=self.num_classes,
            background=self.background,
            foreground=self.foreground,
        )
        losses = self.dense_losses(logits, deltas, anchors, assigned)
        boxes = decoded_boxes(self.coder, deltas, anchors)
        with torch.no_grad():
            found = self.box_detections(logits, boxes, batch.sizes)
        positive = self.trained_boxes([one.boxes for one in found], batch.sizes, targets)
        losses |= self.mask_losses(features, positive, targets)
        proposals = anchor_proposals(
            assigned,
            boxes,
            self.levels,
            [(m.shape[-2], m.shape[-1]) for m in logits],
            self.anchors.num_anchors_per_location()[0],
        )
        finest = features[self.mask_pooler.levels[0]]
        return TrainingOutput(losses, features, proposals, finest)

    def dense_losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Tensor,
        assigned: AnchorTargets,
    ) -> dict[str, Tensor]:
        """Focal loss over positives + images, and box loss over the positives' four numbers each.

        Args:
            logits, deltas: as the head returns them.
            anchors: [R, 4].
            assigned: targets.
        """
        used = assigned.labels >= 0
        classes = focal_loss(
            per_anchor(logits, self.num_classes)[used],
            assigned.labels[used],
            alpha=self.alpha,
            gamma=self.gamma,
        )
        positive = assigned.positive
        image, anchor = positive.nonzero().unbind(dim=1)
        wanted = self.coder.encode_single(assigned.boxes[image, anchor], anchors[anchor])
        boxes = self.box_loss(per_anchor(deltas, BOX)[image, anchor], wanted)
        count = positive.sum()
        return {
            "loss_cls": classes / (count + len(positive)),
            "loss_box_reg": boxes / (BOX * count.clamp(min=1)),
        }

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits" and "deltas" of each level, and the "features" to pool masks from."""
        logits, deltas = self.head([features[level] for level in self.levels])
        pooled = self.mask_pooler.levels if self.mask_on else ()
        return {
            **name_levels("class_logits", self.levels, logits),
            **name_levels("deltas", self.levels, deltas),
            **name_levels("features", pooled, [features[level] for level in pooled]),
        }

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        logits = levels_named(dense, "class_logits", self.levels)
        deltas = levels_named(dense, "deltas", self.levels)
        boxes = decoded_boxes(self.coder, deltas, self.anchors.of_image(logits))
        detections = self.box_detections(logits, boxes, sizes)
        pooled = self.mask_pooler.levels if self.mask_on else ()
        features = dict(zip(pooled, levels_named(dense, "features", pooled), strict=True))
        return self.masked_candidates(features, detections, sizes)

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """Every anchor, with the box predicted there."""
        logits, deltas = self.head([features[level] for level in self.levels])
        return every_anchor(
            decoded_boxes(self.coder, deltas, self.anchors.of_image(logits)),
            self.levels,
            [(m.shape[-2], m.shape[-1]) for m in logits],
            self.anchors.num_anchors_per_location()[0],
        )

    def box_detections(
        self, logits: Sequence[Tensor], boxes: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[BoxDetections]:
        """Detections of images of those sizes; logits per level, decoded boxes [B, R, 4]."""
        scores = [per_anchor([level], self.num_classes).sigmoid() for level in logits]
        counts = [level.shape[1] for level in scores]
        return [
            self.selector.select([level[i] for level in scores], boxes[i].split(counts), size)
            for i, size in enumerate(sizes)
        ]


def _selection_parts(cfg: CfgNode, backbone: Pyramid) -> dict[str, Any]:
    """Of the constructor's arguments: how boxes are selected, what masks are made of, pixels."""
    node, head = cfg.MODEL.RETINANET, cfg.MODEL.ROI_MASK_HEAD
    return {
        "selector": AnchorSelector(
            node.SCORE_THRESH_TEST,
            node.TOPK_CANDIDATES_TEST,
            node.NMS_THRESH_TEST,
            cfg.TEST.DETECTIONS_PER_IMAGE,
        ),
        "sampler": ProposalSampler.from_config(cfg),
        "mask_pooler": PyramidPooler(
            node.MASK_IN_FEATURES,
            [backbone.strides[level] for level in node.MASK_IN_FEATURES],
            size=head.POOLER_RESOLUTION,
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
            pooler_type=head.POOLER_TYPE,
        ),
        "mask_head": MaskHead.from_config(cfg, backbone.out_channels),
        "mask_on": cfg.MODEL.MASK_ON,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "pixel_format": cfg.INPUT.FORMAT,
    }

"""CenterMask (Lee, Park 2020, arXiv:1911.06667): FCOS, whose best boxes a mask head fills.

docs/methods.md#centermask. Names of keys that exist elsewhere are Detectron2's and the authors'.

Shape letters: B images; P boxes of the batch; F faces of the batch; C channels; S side of pooled
features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.modeling.detectors.base import (
    ImageBatch,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.detectors.centermask.mask_head import (
    AdaptivePooler,
    SpatialAttentionMaskHead,
)
from comics.modeling.detectors.fcos import FCOS, DenseTraining, Detections, HeadOutput
from comics.modeling.detectors.mask_iou import MaskIoUHead
from comics.modeling.detectors.mask_rcnn import (
    BoxDetections,
    PooledMaskDetector,
    ProposalSampler,
    require_levels,
    resized,
)
from comics.modeling.detectors.target_masks import require_masks
from comics.ops.boxes import clip_boxes
from comics.registry import DETECTORS
from comics.structures import Faces


@dataclass(frozen=True)
class PooledFrom:
    """What the mask head's features of further boxes need.

    Attributes:
        features: level name -> [B, C, h, w].
        sizes: (height, width) of each image before padding, which the levels of boxes depend on.
    """

    features: Mapping[str, Tensor]
    sizes: list[tuple[int, int]]


@DETECTORS.register()
class CenterMask(FCOS, PooledMaskDetector):
    """FCOS with masks.

    Args:
        sampler: draws the boxes that masks are learnt from.
        mask_pooler, mask_head, mask_iou_head, mask_on: see ``PooledMaskDetector``.
        fcos: arguments of ``FCOS``.
    """

    selection_parts = ("mask_head", "mask_iou_head")
    mask_pooler: AdaptivePooler

    def __init__(
        self,
        *,
        sampler: ProposalSampler,
        mask_pooler: AdaptivePooler,
        mask_head: SpatialAttentionMaskHead,
        mask_iou_head: MaskIoUHead | None = None,
        mask_on: bool = True,
        **fcos: Any,
    ) -> None:
        super().__init__(**fcos)
        self.sampler = sampler
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_iou_head = mask_iou_head
        self.mask_on = mask_on
        heads = ("mask_head",) if mask_iou_head is None else ("mask_head", "mask_iou_head")
        self.pooled_heads = heads if mask_on else ()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CenterMask:
        """From the keys of ``FCOS``, ``MODEL.CENTERMASK``, ``MODEL.ROI_HEADS`` (the sampling),
        ``MODEL.ROI_MASK_HEAD`` and ``MODEL.ROI_MASKIOU_HEAD``.

        Raises:
            ValueError: for levels that the pyramid lacks, or numbers of classes that differ.
        """
        node, head, heads = cfg.MODEL.CENTERMASK, cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS
        if heads.NUM_CLASSES != cfg.MODEL.FCOS.NUM_CLASSES:
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {heads.NUM_CLASSES}, "
                f"MODEL.FCOS.NUM_CLASSES {cfg.MODEL.FCOS.NUM_CLASSES}: CenterMask needs one number"
            )
        parts = cls.parts_from_config(cfg)
        backbone = parts["backbone"]
        require_levels(backbone.strides, "CENTERMASK.MASK_IN_FEATURES", node.MASK_IN_FEATURES)
        channels = backbone.out_channels
        return cls(
            sampler=ProposalSampler.from_config(cfg),
            mask_pooler=AdaptivePooler(
                node.MASK_IN_FEATURES,
                [backbone.strides[level] for level in node.MASK_IN_FEATURES],
                assignment=node.ASSIGN_CRITERION,
                size=head.POOLER_RESOLUTION,
                sampling_ratio=head.POOLER_SAMPLING_RATIO,
                pooler_type=head.POOLER_TYPE,
            ),
            mask_head=SpatialAttentionMaskHead(
                channels,
                attention=node.SPATIAL_ATTENTION,
                num_classes=heads.NUM_CLASSES,
                num_convs=head.NUM_CONV,
                channels=head.CONV_DIM,
                norm=head.NORM,
                class_agnostic=head.CLS_AGNOSTIC_MASK,
            ),
            mask_iou_head=MaskIoUHead.from_config(cfg, channels) if node.MASKIOU_ON else None,
            mask_on=cfg.MODEL.MASK_ON,
            **parts,
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """FCOS's losses, "loss_mask" and, with mask scoring, "loss_maskiou".

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        dense = self.dense_training(features, targets)
        positive = self.trained_boxes(self.detected_boxes(dense), batch.sizes, targets)
        losses = dict(dense.loss.losses) | self.mask_losses(features, positive, targets)
        source = PooledFrom(features, batch.sizes)
        return TrainingOutput(losses, features, self.proposals(dense), source)

    @torch.no_grad()
    def detected_boxes(self, dense: DenseTraining) -> list[Tensor]:
        """FCOS's detections of a training step: per image [N, 4] pixels."""
        head = dense.head
        found = self.selector.select(head.class_logits, head.distances, head.quality_logits)
        return [one.boxes for one in found]

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """The "features" that masks are pooled from, of each level."""
        if not self.mask_on:
            return {}
        levels = self.mask_pooler.levels
        return name_levels("features", levels, [features[level] for level in levels])

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``; masks are of the boxes clipped to the image, as in training."""
        found = [in_image(*one) for one in zip(self.detections(dense), sizes, strict=True)]
        features = {}
        if self.mask_on:
            levels = self.mask_pooler.levels
            features = dict(zip(levels, levels_named(dense, "features", levels), strict=True))
        return self.masked_candidates(features, found, sizes)

    def pool_masks(
        self,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """See ``PooledMaskDetector.pool_masks``; by the boxes' shares of their images."""
        return self.mask_pooler.pool(features, boxes, sizes)

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """What the mask head doubles, for boxes (one [F_i, 4] per image): [F, C, size, size].

        After the attention; resized as Mask R-CNN's (docs/methods.md#comics-pixel-maps).
        """
        source = output.mask_features
        pooled = self.mask_pooler.pool(source.features, boxes, source.sizes)
        return resized(self.mask_head.convolved(pooled), size)


def in_image(found: Detections, size: tuple[int, int]) -> BoxDetections:
    """Detections with their boxes clipped to an image of (height, width)."""
    return BoxDetections(clip_boxes(found.boxes, size), found.scores, found.labels)

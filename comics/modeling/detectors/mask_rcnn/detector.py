"""Mask R-CNN (He et al. 2017, arXiv:1703.06870) on a feature pyramid: proposals, then for each the
class, a refined box and a mask.

Numerically Detectron2's model of that name, whose ``MODEL.RPN``, ``MODEL.ANCHOR_GENERATOR``,
``MODEL.ROI_HEADS``, ``MODEL.ROI_BOX_HEAD`` and ``MODEL.ROI_MASK_HEAD`` keys configure it and whose
checkpoints load (``comics.integrations.weights.convert_detectron2``); masks are bitmaps.

Shape letters: B images; C channels; K classes; P proposals of the batch; N detections or faces of
an image; S side of pooled features; R side of masks (2 S).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from comics.config import CfgNode
from comics.modeling.backbone import Pyramid, build_backbone
from comics.modeling.detectors.base import (
    ImageBatch,
    LevelBoxes,
    LevelProposals,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.detectors.cells import image_of_each
from comics.modeling.detectors.mask_iou import MaskIoUHead
from comics.modeling.detectors.mask_rcnn.heads import BoxHead, MaskHead
from comics.modeling.detectors.mask_rcnn.pooled_masks import PooledMaskDetector
from comics.modeling.detectors.mask_rcnn.proposals import ProposalNetwork
from comics.modeling.detectors.mask_rcnn.sampling import ProposalSampler, SampledProposals
from comics.modeling.detectors.pooling import PyramidPooler
from comics.modeling.detectors.target_masks import require_masks
from comics.ops.transfers import on_device, on_host
from comics.registry import DETECTORS
from comics.structures import Faces

# Detectron2's choices that are built here; its other heads are refused
ONLY_NAMES = {
    "ROI_HEADS": "StandardROIHeads",
    "ROI_BOX_HEAD": "FastRCNNConvFCHead",
    "ROI_MASK_HEAD": "MaskRCNNConvUpsampleHead",
}


@DETECTORS.register()
class MaskRCNN(PooledMaskDetector):
    """Two-stage detector with masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        proposal_network: makes the proposals.
        sampler: draws those that the heads learn from.
        box_pooler, box_head: of the second stage.
        mask_pooler, mask_head, mask_iou_head, mask_on: of the third, see ``PooledMaskDetector``.
        pixel_mean, pixel_std, pixel_format: see ``Detector``.

    Raises:
        ValueError: if the backbone lacks a level that a part needs.
    """

    selection_parts: tuple[str, ...] = ("box_head", "mask_head")
    pooled_heads: tuple[str, ...] = ("box_head", "mask_head")

    def __init__(
        self,
        backbone: Pyramid,
        *,
        proposal_network: ProposalNetwork,
        sampler: ProposalSampler,
        box_pooler: PyramidPooler,
        box_head: BoxHead,
        mask_pooler: PyramidPooler,
        mask_head: MaskHead,
        mask_iou_head: MaskIoUHead | None = None,
        mask_on: bool = True,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pixel_format: str = "RGB",
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std, pixel_format, backbone.size_divisibility)
        self.proposal_network = proposal_network
        self.sampler = sampler
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.mask_iou_head = mask_iou_head
        self.mask_on = mask_on

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskRCNN:
        """From ``MODEL.BACKBONE``, ``MODEL.RESNETS``, ``MODEL.FPN`` and the module's keys.

        Raises:
            ValueError: for a head that is not built here, or levels that the pyramid lacks.
        """
        return cls(**cls.parts_from_config(cfg))

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments that detectors of these stages share; errors as ``from_config``."""
        model = cfg.MODEL
        for node, only in ONLY_NAMES.items():
            name = model[node].NAME
            if name != only:
                raise ValueError(f"MODEL.{node}.NAME must be {only!r}, got {name!r}")
        backbone = build_backbone(cfg)
        require_levels(backbone.strides, "RPN.IN_FEATURES", model.RPN.IN_FEATURES)
        levels = model.ROI_HEADS.IN_FEATURES
        require_levels(backbone.strides, "ROI_HEADS.IN_FEATURES", levels)
        box_pooler, mask_pooler = (
            PyramidPooler(
                levels,
                [backbone.strides[level] for level in levels],
                size=node.POOLER_RESOLUTION,
                sampling_ratio=node.POOLER_SAMPLING_RATIO,
                pooler_type=node.POOLER_TYPE,
            )
            for node in (model.ROI_BOX_HEAD, model.ROI_MASK_HEAD)
        )
        channels = backbone.out_channels
        return {
            "backbone": backbone,
            "proposal_network": ProposalNetwork.from_config(cfg, channels, backbone.strides),
            "sampler": ProposalSampler.from_config(cfg),
            "box_pooler": box_pooler,
            "box_head": BoxHead.from_config(cfg, channels),
            "mask_pooler": mask_pooler,
            "mask_head": MaskHead.from_config(cfg, channels),
            "mask_on": model.MASK_ON,
            "pixel_mean": model.PIXEL_MEAN,
            "pixel_std": model.PIXEL_STD,
            "pixel_format": cfg.INPUT.FORMAT,
        }

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """ "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg" and "loss_mask".

        ``mask_features`` is the finest level that masks are pooled from; ``roi_mask_features``
        takes each box from the level of its size.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        proposals, losses = self._propose(features, batch, targets)
        sampled = self.sampler(proposals, targets)
        pooled = self.box_pooler(features, sampled.per_image(len(targets)))
        class_logits, deltas = self.box_head(pooled)
        losses |= self.box_head.loss(class_logits, deltas, sampled)
        positive = sampled[sampled.faces(self.box_head.num_classes)]
        losses |= self.mask_losses(features, positive, targets)
        finest = features[self.mask_pooler.levels[0]]
        return TrainingOutput(losses, features, self.proposals(positive), finest)

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first stage's "objectness" and "deltas" per level, and the "features" to pool."""
        levels = self.proposal_network.levels
        objectness, deltas = self.proposal_network.head([features[level] for level in levels])
        pooled = self.box_pooler.levels
        return {
            **name_levels("objectness", levels, objectness),
            **name_levels("deltas", levels, deltas),
            **name_levels("features", pooled, [features[level] for level in pooled]),
        }

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        pooled = self.box_pooler.levels
        features = dict(zip(pooled, levels_named(dense, "features", pooled), strict=True))
        proposals = self.proposals_of(dense, sizes)
        logits, deltas = self.box_head(self.box_pooler(features, proposals))
        detections = self.box_head.select(logits, deltas, proposals, sizes)
        return self.masked_candidates(features, detections, sizes)

    def proposals_of(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """The first stage's proposals: per image [N, 4], best first."""
        levels = self.proposal_network.levels
        return self.proposal_network.propose(
            levels_named(dense, "objectness", levels), levels_named(dense, "deltas", levels), sizes
        )

    def pooled_example(
        self, head: str, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Features for the box head; for the others see ``PooledMaskDetector``."""
        if head != "box_head":
            return super().pooled_example(head, count, generator)
        side = self.box_pooler.size
        shape = (count, self.backbone.out_channels, side, side)
        return (torch.randn(shape, generator=generator),)

    def proposals(self, positive: SampledProposals) -> dict[str, LevelProposals]:
        """Sampled proposals that overlap a face, by the level that they are pooled from.

        With ``MODEL.ROI_HEADS.PROPOSAL_APPEND_GT`` the faces' own boxes are among them.
        """
        level_of = on_host(self.box_pooler.level_of(positive.boxes))[0]
        found = {}
        for position, level in enumerate(self.box_pooler.levels):
            here = positive[np.flatnonzero(level_of == position)]
            found[level] = LevelProposals(here.image, here.face, here.boxes, cells=None)
        return found

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """The first stage's proposals, by the level that they are pooled from."""
        boxes = self.proposals_of(self.dense(features), batch.sizes)
        image, joined = image_of_each(boxes), torch.cat(boxes)
        level_of, found = on_host(self.box_pooler.level_of(joined))[0], {}
        for index, level in enumerate(self.box_pooler.levels):
            here = on_device(np.flatnonzero(level_of == index), joined.device)
            found[level] = LevelBoxes(image[here], joined[here], cells=None)
        return found

    def _propose(
        self,
        features: Mapping[str, Tensor],
        batch: ImageBatch,
        targets: Sequence[Faces],
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of each image, and the losses of the first stage."""
        proposals, losses = self.proposal_network(
            ImageList(batch.tensor, batch.sizes),
            {level: features[level] for level in self.proposal_network.levels},
            [{"boxes": faces.boxes.float()} for faces in targets],
        )
        names = {"loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_loc"}
        return proposals, {names[name]: loss for name, loss in losses.items()}


def require_levels(strides: Mapping[str, int], key: str, levels: Sequence[str]) -> None:
    """Raise ``ValueError``, naming ``MODEL.<key>``, for levels that are not among ``strides``."""
    missing = [level for level in levels if level not in strides]
    if missing:
        raise ValueError(
            f"MODEL.{key} {missing} are not among the pyramid's {list(strides)}: see "
            "MODEL.FPN.IN_FEATURES and MODEL.FPN.TOP_BLOCK"
        )

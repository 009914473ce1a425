"""CondInst (Conditional Convolutions for Instance Segmentation, Tian, Shen, Chen 2020,
arXiv:2003.05664): FCOS, whose faces bring the filters that draw their own masks.

Each location predicts the weights of a small network (the controller, section 3.1); applied to a
few maps of the whole image and the coordinates relative to the location, it gives the face's mask
without cropping. Details as in AdelaiDet, whose ``MODEL.CONDINST`` keys configure it.

Shape letters: B images; C channels; K classes; P positive locations or detections; F faces of the
batch; H, W padded image; s stride of the mask features; o stride of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.detectors.base import (
    ImageBatch,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import GridMasks, SoftMasks
from comics.modeling.detectors.cells import conv3x3_at_cells, points_of_cells, values_at_cells
from comics.modeling.detectors.condinst.boxinst import BoxSupervision, box_bitmaps, rgb_pixels
from comics.modeling.detectors.condinst.dynamic_head import (
    DynamicMaskHead,
    MaskQueries,
    best_per_face,
    random_subset,
)
from comics.modeling.detectors.condinst.mask_branch import MaskBranch, smallest_mask_labels
from comics.modeling.detectors.fcos import (
    FCOS,
    DenseTraining,
    Detections,
    HeadOutput,
    detected_cells,
)
from comics.modeling.detectors.pooling import pool_map
from comics.modeling.detectors.target_masks import (
    bitmaps,
    pad_masks,
    require_masks,
    sampled_masks,
)
from comics.modeling.detectors.towers import PREDICTION_STD
from comics.modeling.layers import fill_bias
from comics.ops.losses import dice_loss
from comics.ops.masks import mask_centers
from comics.registry import DETECTORS
from comics.structures import Faces

DICE_SMOOTHING = 1e-5  # AdelaiDet's
ALL = -1  # no limit on the positives that masks are trained on


@DETECTORS.register()
class CondInst(FCOS):
    """FCOS with masks.

    Args:
        mask_branch: makes the mask features.
        mask_head: applies the generated weights; its stride is the mask branch's.
        max_proposals: masks are trained on at most this many positives per process, drawn at
            random; -1 for all.
        topk_per_image: or on this many per image, the best of each face; -1 for all.
        box_supervision: train masks from boxes alone (BoxInst), with these losses; None: from
            masks.
        mask_on: False leaves the masks out of inference.
        fcos: arguments of ``FCOS``.

    Raises:
        ValueError: if both limits are given, or the strides or levels do not fit.
    """

    selection_parts = ("controller", "mask_head")

    def __init__(
        self,
        *,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        max_proposals: int = ALL,
        topk_per_image: int = ALL,
        box_supervision: BoxSupervision | None = None,
        mask_on: bool = True,
        **fcos: Any,
    ) -> None:
        super().__init__(**fcos)
        if max_proposals != ALL and topk_per_image != ALL:
            raise ValueError(
                "MODEL.CONDINST.MAX_PROPOSALS and TOPK_PROPOSALS_PER_IM exclude each other: set "
                f"one of them to -1, got {max_proposals} and {topk_per_image}"
            )
        self.mask_branch = mask_branch
        self.mask_head = mask_head
        self.max_proposals = max_proposals
        self.topk_per_image = topk_per_image
        self.box_supervision = box_supervision
        self.mask_on = mask_on
        self.controller = nn.Conv2d(
            self.backbone.out_channels, mask_head.num_parameters, 3, padding=1
        )
        nn.init.normal_(self.controller.weight, std=PREDICTION_STD)
        fill_bias(self.controller, 0)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CondInst:
        """From the keys of ``FCOS``, ``MODEL.CONDINST`` and ``MODEL.BOXINST``."""
        node = cfg.MODEL.CONDINST
        parts = cls.parts_from_config(cfg)
        mask_branch = MaskBranch.from_config(cfg, parts["backbone"])
        return cls(
            mask_branch=mask_branch,
            mask_head=DynamicMaskHead.from_config(cfg, mask_branch.stride),
            max_proposals=node.MAX_PROPOSALS,
            topk_per_image=node.TOPK_PROPOSALS_PER_IM,
            box_supervision=BoxSupervision.from_config(cfg),
            mask_on=cfg.MODEL.MASK_ON,
            **parts,
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """FCOS's losses, "loss_mask", and "loss_sem" where the mask branch has it.

        With ``box_supervision``, "loss_prj" and "loss_pairwise" instead of "loss_mask"; boxes
        stand for masks everywhere. The centre sampling takes the masks' centres of mass.
        ``mask_features`` is the map that the mask branch's features are read from, as BlendMask's:
        wider than the few features, which the mask head alone should shape (decision).

        Raises:
            ValueError: if the faces of an image have no masks, without ``box_supervision``.
        """
        if self.box_supervision is None:
            require_masks(targets)
            masks = [bitmaps(faces) for faces in targets]
        else:
            masks = [box_bitmaps(faces.boxes, faces.image_size) for faces in targets]
        self.mask_head.iterations += 1
        mask_features, last = self.mask_branch(features)
        centers = [mask_centers(m, f.boxes) for m, f in zip(masks, targets, strict=True)]
        dense = self.dense_training(features, targets, centers)
        losses = dict(dense.loss.losses)
        losses.update(self._mask_losses(dense, mask_features, masks, batch))
        if self.mask_branch.semantic is not None:
            labels = smallest_mask_labels(
                masks,
                [faces.labels for faces in targets],
                num_classes=self.loss.num_classes,
                stride=self.mask_branch.stride,
                grid=tuple(mask_features.shape[-2:]),
            )
            losses["loss_sem"] = self.mask_branch.semantic_loss(
                features, labels, alpha=self.loss.alpha, gamma=self.loss.gamma
            )
        return TrainingOutput(losses, features, self.proposals(dense), last)

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """ "mask_features", and the "box_tower" of each level, for the controller at detections."""
        if not self.mask_on:
            return {}
        mask_features, _ = self.mask_branch(features)
        towers = name_levels("box_tower", self.levels, head.box_tower)
        return {"mask_features": mask_features, **towers}

    def candidate_masks(
        self,
        dense: dict[str, Tensor],
        detections: Sequence[Detections],
        sizes: Sequence[tuple[int, int]],
    ) -> Sequence[SoftMasks | None]:
        """Of ``soft_masks``, unless ``mask_on`` is False."""
        if not self.mask_on:
            return super().candidate_masks(dense, detections, sizes)
        stride = self.mask_head.out_stride
        return [
            GridMasks(soft, stride, aligned=True) for soft in self.soft_masks(dense, detections)
        ]

    def soft_masks(
        self, dense: dict[str, Tensor], detections: Sequence[Detections]
    ) -> list[Tensor]:
        """Per image the soft masks [P, H / o, W / o] in [0, 1] of the detections."""
        mask_features = dense["mask_features"]
        box_tower = levels_named(dense, "box_tower", self.levels)
        queries = self.queries(box_tower, *detected_cells(detections))
        soft = self.mask_head(mask_features, queries).sigmoid()
        return list(soft.split([len(one) for one in detections]))

    def queries(
        self, box_tower: Sequence[Tensor], level: Tensor, image: Tensor, cell: Tensor
    ) -> MaskQueries:
        """What the mask head needs of locations, each [P] int64.

        The controller runs at these locations only, and in float32 also under autocast: rounding
        the weights of a network of a few channels shows in its masks.
        """
        with torch.autocast(cell.device.type, enabled=False):
            maps = [tower.float() for tower in box_tower]
            parameters = conv3x3_at_cells(self.controller, maps, level, image, cell)
        widths = [tower.shape[-1] for tower in box_tower]
        points = points_of_cells(level, cell, widths, self.assigner.strides)
        return MaskQueries(parameters, image, points, level)

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The mask branch's last map within boxes (one [F_i, 4] per image): [F, C, size, size]."""
        return pool_map(output.mask_features, boxes, size, 1 / self.mask_branch.stride)

    def _mask_losses(
        self,
        dense: DenseTraining,
        mask_features: Tensor,
        masks: Sequence[Tensor],
        batch: ImageBatch,
    ) -> dict[str, Tensor]:
        """The positives' mean dice loss (section 3.2), or BoxInst's two; 0 without positives."""
        chosen = self._trained_positives(dense)
        logits = self._logits(dense, mask_features, chosen)
        stride = self.mask_head.out_stride
        grid = (batch.tensor.shape[-2] // stride, batch.tensor.shape[-1] // stride)
        sampled = pad_masks([sampled_masks(m, stride) for m in masks], grid)
        wanted = sampled[dense.targets.face[chosen]]
        if self.box_supervision is None:
            errors = dice_loss(logits.sigmoid(), wanted, smoothing=DICE_SMOOTHING)
            return {"loss_mask": errors.sum() / max(len(chosen), 1)}
        pixels = rgb_pixels(batch, self.pixel_mean, self.pixel_std, self.pixel_format)
        similar = self.box_supervision.similar_neighbours(pixels, batch.sizes, stride)
        return self.box_supervision.losses(
            logits, wanted, similar[dense.targets.image[chosen]], self.mask_head.iterations
        )

    def _logits(self, dense: DenseTraining, mask_features: Tensor, chosen: Tensor) -> Tensor:
        """Mask logits [P, H / o, W / o] at locations of the batch, [P] int64."""
        targets = dense.targets
        queries = self.queries(
            dense.head.box_tower,
            targets.level[chosen],
            targets.image[chosen],
            targets.cell[chosen],
        )
        return self.mask_head(mask_features, queries)

    def _trained_positives(self, dense: DenseTraining) -> Tensor:
        """The positive locations whose masks are trained, [P] int64 among all locations."""
        positive = dense.targets.positive
        if self.topk_per_image == ALL:
            return positive[random_subset(len(positive), self.max_proposals, positive.device)]
        found = dense.positives
        score = self._positive_scores(dense)
        return positive[best_per_face(score, found.face, found.image, self.topk_per_image)]

    @torch.no_grad()
    def _positive_scores(self, dense: DenseTraining) -> Tensor:
        """Best class probability times quality at the positives, [P]."""
        found = dense.positives
        classes, quality = (
            values_at_cells(maps, found.level, found.image, found.cell, found.level_sizes).sigmoid()
            for maps in (dense.head.class_logits, dense.head.quality_logits)
        )
        return classes.amax(dim=1) * quality[:, 0]

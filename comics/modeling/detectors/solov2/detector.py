"""SOLOv2 (Wang et al. 2020, arXiv:2003.10152): faces by location, masks by dynamic convolution.

No boxes and no regions of interest: the grid cell that holds a face's centre predicts its class
and a kernel; the kernel applied to one map of the image is the mask. Boxes of the result are those
of the masks. Details as in AdelaiDet, whose ``MODEL.SOLOV2`` keys configure it.

Shape letters: B images; C channels; K classes; E channels of the mask map; S side of a level's
grid; P pairs of a cell and a face; h, w mask map or level; H, W padded image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.modeling.backbone import Pyramid, build_backbone
from comics.modeling.detectors.base import (
    ImageBatch,
    LevelBoxes,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.detectors.pooling import pool_map
from comics.modeling.detectors.solov2.grid_detector import (
    DICE_SMOOTHING,
    GridDetector,
    SOLOLoss,
)
from comics.modeling.detectors.solov2.heads import InstanceHead, InstanceOutput, MaskHead
from comics.modeling.detectors.solov2.selection import MASKS_AT_ONCE, MaskSelector
from comics.modeling.detectors.solov2.targets import CellAssigner, LevelTargets, shrink_masks
from comics.modeling.detectors.target_masks import require_masks
from comics.ops.losses import dice_loss
from comics.ops.mask_parts import mask_boxes
from comics.registry import DETECTORS
from comics.structures import Faces


@DETECTORS.register()
class SOLOv2(GridDetector):
    """Masks, classes and scores; boxes from the masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        instance_head: classes and kernels.
        mask_head: the map that kernels are applied to.
        levels: names of the levels that the instance head sees, finest first.
        mask_levels: names of the levels that the mask head merges, finest first.
        assigner, loss, selector: targets, losses, selection; each for ``levels``.
        mask_on: False leaves the masks out of inference; boxes are those of the masks either way.
        pixel_mean, pixel_std, pixel_format: see ``Detector``.

    Raises:
        ValueError: if the levels are not the backbone's, or the per-level settings, or the sizes
            of kernels and mask map, do not fit each other.
    """

    def __init__(
        self,
        backbone: Pyramid,
        instance_head: InstanceHead,
        mask_head: MaskHead,
        *,
        levels: Sequence[str],
        mask_levels: Sequence[str],
        assigner: CellAssigner,
        loss: SOLOLoss,
        selector: MaskSelector,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pixel_format: str = "RGB",
        mask_on: bool = True,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std, pixel_format, backbone.size_divisibility)
        self.instance_head = instance_head
        self.mask_head = mask_head
        self.levels = tuple(levels)
        self.mask_levels = tuple(mask_levels)
        self.assigner = assigner
        self.loss = loss
        self.selector = selector
        self.mask_on = mask_on
        self._check_fit()
        self.finest = self.mask_levels[0]
        self.mask_stride = backbone.strides[self.finest]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SOLOv2:
        """From ``MODEL.BACKBONE``, ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.SOLOV2``."""
        backbone = build_backbone(cfg)
        return cls(
            backbone,
            InstanceHead.from_config(cfg, backbone.out_channels),
            MaskHead.from_config(cfg, backbone.out_channels),
            levels=cfg.MODEL.SOLOV2.INSTANCE_IN_FEATURES,
            mask_levels=cfg.MODEL.SOLOV2.MASK_IN_FEATURES,
            assigner=CellAssigner.from_config(cfg),
            loss=SOLOLoss.from_config(cfg),
            selector=MaskSelector.from_config(cfg),
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            pixel_format=cfg.INPUT.FORMAT,
            mask_on=cfg.MODEL.MASK_ON,
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """The losses "loss_ins" and "loss_cate", and the cells assigned to faces as proposals.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        dense, mask_features = self.heads(features)
        height, width = batch.tensor.shape[-2:]
        assigned = self.assigner.assign(targets, (height, width))
        instance_loss, boxes = self._instance_loss(dense, mask_features, assigned, targets)
        losses = {
            "loss_ins": instance_loss,
            "loss_cate": self.class_loss(dense.class_logits, assigned),
        }
        proposals = self.grid_proposals(features, assigned, boxes)
        return TrainingOutput(losses, features, proposals, mask_features)

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits" and "kernels" of each level's grid, and "mask_features"."""
        instances, mask_features = self.heads(features)
        return {
            **name_levels("class_logits", self.levels, instances.class_logits),
            **name_levels("kernels", self.levels, instances.kernels),
            "mask_features": mask_features,
        }

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        mask_features = dense["mask_features"]
        class_logits, kernels = (
            levels_named(dense, name, self.levels) for name in ("class_logits", "kernels")
        )
        with torch.autocast(mask_features.device.type, enabled=False):
            detections = self.selector.select(class_logits, kernels, mask_features)
        return [self.to_candidates(*one) for one in zip(detections, sizes, strict=True)]

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """The grid cells whose class probability is above the threshold of inference.

        The box of a cell is that of its mask. Those of all cells of the grids would be thousands
        of masks a view.
        """
        dense, mask_features = self.heads(features)
        found = {}
        for level, logits, kernels in zip(
            self.levels, dense.class_logits, dense.kernels, strict=True
        ):
            probability = logits.sigmoid().amax(dim=1).flatten(1)
            image, cell = (probability > self.selector.score_threshold).nonzero(as_tuple=True)
            boxes = self._mask_boxes(kernels.flatten(2)[image, :, cell], image, mask_features)
            found[level] = LevelBoxes(image, boxes, self.level_cells(features, level, cell))
        return found

    def _mask_boxes(self, kernels: Tensor, image: Tensor, mask_features: Tensor) -> Tensor:
        """[P, 4] pixels: boxes of the masks of kernels [P, E], a few masks at a time."""
        boxes = kernels.new_zeros(len(kernels), 4)
        for index, features in enumerate(mask_features):
            for here in (image == index).nonzero().squeeze(1).split(MASKS_AT_ONCE):
                with torch.autocast(kernels.device.type, enabled=False):
                    soft = (kernels[here] @ features.flatten(1)).sigmoid()
                masks = (soft > self.selector.mask_threshold).view(-1, *features.shape[1:])
                boxes[here] = mask_boxes(masks) * self.mask_stride
        return boxes

    def heads(self, features: dict[str, Tensor]) -> tuple[InstanceOutput, Tensor]:
        """What both heads say: classes and kernels, and the mask map [B, E, h, w] float32."""
        instances = self.instance_head([features[level] for level in self.levels])
        return instances, self.mask_head([features[level] for level in self.mask_levels]).float()

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The mask map within boxes (one [F_i, 4] per image): [F, E, size, size]."""
        return pool_map(output.mask_features, boxes, size, 1 / self.mask_stride)

    def _instance_loss(
        self,
        dense: InstanceOutput,
        mask_features: Tensor,
        assigned: Sequence[LevelTargets],
        targets: Sequence[Faces],
    ) -> tuple[Tensor, Tensor]:
        """Mean Dice loss of all pairs, and the boxes of their masks [P, 4], pixels, detached.

        Pairs are ordered as in ``assigned``, level by level.
        """
        kernels = torch.cat(
            [
                level.flatten(2)[pairs.image, :, pairs.cell]
                for level, pairs in zip(dense.kernels, assigned, strict=True)
            ]
        )
        image = torch.cat([pairs.image for pairs in assigned])
        face = torch.cat([pairs.face for pairs in assigned])
        size = (mask_features.shape[-2], mask_features.shape[-1])
        boxes = kernels.new_zeros(len(kernels), 4)
        errors = []
        for index, faces in enumerate(targets):
            here = (image == index).nonzero().squeeze(1)
            with torch.autocast(kernels.device.type, enabled=False):
                soft = (kernels[here] @ mask_features[index].flatten(1)).sigmoid()
            wanted = soft.new_zeros(0, soft.shape[1], dtype=torch.bool)
            if len(faces):
                wanted = shrink_masks(
                    faces.known_masks, self.mask_stride, size, self.loss.mask_targets
                ).flatten(1)
            errors.append(dice_loss(soft, wanted[face[here]], smoothing=DICE_SMOOTHING))
            found = (soft.detach() > self.selector.mask_threshold).view(-1, *size)
            boxes[here] = mask_boxes(found) * self.mask_stride
        joined = torch.cat(errors)
        return self.loss.mask_weight * joined.sum() / max(len(joined), 1), boxes

    def _check_fit(self) -> None:
        strides = self.backbone.strides
        missing = [level for level in (*self.levels, *self.mask_levels) if level not in strides]
        if missing:
            raise ValueError(
                f"MODEL.SOLOV2 needs the levels {missing}, the pyramid has {list(strides)}: see "
                "MODEL.FPN.IN_FEATURES and MODEL.FPN.TOP_BLOCK"
            )
        counts = {
            "INSTANCE_IN_FEATURES": len(self.levels),
            "NUM_GRIDS": len(self.instance_head.grids),
            "FPN_SCALE_RANGES": len(self.assigner.scale_ranges),
            "FPN_INSTANCE_STRIDES": len(self.selector.smallest_areas),
        }
        if len(set(counts.values())) > 1 or len(self.levels) < 2:
            raise ValueError(f"MODEL.SOLOV2 needs two or more levels, one entry each: {counts}")
        found = [strides[level] for level in self.mask_levels]
        if len(found) < 2 or any(s != found[0] << index for index, s in enumerate(found)):
            raise ValueError(
                "MODEL.SOLOV2.MASK_IN_FEATURES must be two or more levels whose strides double, "
                f"got strides {found}"
            )
        kernels = self.instance_head.kernels.out_channels
        masks = self.mask_head.predictor.conv.out_channels
        if kernels != masks:
            raise ValueError(
                f"MODEL.SOLOV2.NUM_KERNELS and NUM_MASKS must be equal, got {kernels}, {masks}"
            )

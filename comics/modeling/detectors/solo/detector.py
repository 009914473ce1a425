"""SOLO (Wang et al. 2020, arXiv:1912.04488): the cell of a grid that holds a face's centre gives
its class and its mask.

What it shares with its successor is SOLOv2's (``GridDetector``). docs/methods.md#solo.

Shape letters: B images; C channels; K classes; S side of a level's grid; P pairs of a cell and a
face; h, w of a mask map; F faces of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
from comics.modeling.detectors.cells import by_level
from comics.modeling.detectors.pooling import pool_by_level
from comics.modeling.detectors.solo.head import MaskCells, SOLOHead, SOLOOutput, map_strides
from comics.modeling.detectors.solov2 import (
    DICE_SMOOTHING,
    MASKS_AT_ONCE,
    CellAssigner,
    GridDetector,
    LevelTargets,
    MaskSelector,
    SOLOLoss,
    shrink_masks,
)
from comics.modeling.detectors.target_masks import require_masks
from comics.ops.losses import dice_loss
from comics.ops.mask_parts import mask_boxes
from comics.registry import DETECTORS
from comics.structures import Faces


@DETECTORS.register()
class SOLO(GridDetector):
    """Masks, classes and scores; boxes from the masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        head: classes and masks.
        levels: names of the levels that the head sees, finest first.
        assigner, loss, selector: targets, losses, selection; each for ``levels``.
        mask_on: see ``GridDetector``.
        base: ``pixel_mean``, ``pixel_std``, ``pixel_format``, see ``Detector``.

    Raises:
        ValueError: if the levels are not the backbone's, or the per-level settings do not fit.
    """

    selection_parts = ("head.masks",)

    def __init__(
        self,
        backbone: Pyramid,
        head: SOLOHead,
        *,
        levels: Sequence[str],
        assigner: CellAssigner,
        loss: SOLOLoss,
        selector: MaskSelector,
        mask_on: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(backbone, size_divisibility=backbone.size_divisibility, **base)
        self.head = head
        self.levels = tuple(levels)
        self.assigner = assigner
        self.loss = loss
        self.selector = selector
        self.mask_on = mask_on
        self._check_fit()
        strides = [backbone.strides[level] for level in self.levels]
        self.map_strides = map_strides(strides)
        self.finest, self.mask_stride = self.levels[0], strides[0]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SOLO:
        """From ``MODEL.BACKBONE``, ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.SOLO``."""
        node = cfg.MODEL.SOLO
        backbone = build_backbone(cfg)
        return cls(
            backbone,
            SOLOHead.from_config(cfg, backbone.out_channels),
            levels=node.IN_FEATURES,
            assigner=CellAssigner.from_config(cfg, "SOLO"),
            loss=SOLOLoss(
                alpha=node.LOSS.FOCAL_ALPHA,
                gamma=node.LOSS.FOCAL_GAMMA,
                class_weight=node.LOSS.FOCAL_WEIGHT,
                mask_weight=node.LOSS.DICE_WEIGHT,
            ),
            selector=MaskSelector.from_config(cfg, "SOLO"),
            mask_on=cfg.MODEL.MASK_ON,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            pixel_format=cfg.INPUT.FORMAT,
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """The losses "loss_ins" and "loss_cate", and the cells assigned to faces as proposals.

        ``mask_features`` is the list of the levels' mask maps.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        output = self.head([features[level] for level in self.levels])
        height, width = batch.tensor.shape[-2:]
        assigned = self.assigner.assign(targets, (height, width))
        mask_loss, boxes = self._mask_loss(output, assigned, targets)
        losses = {
            "loss_ins": mask_loss,
            "loss_cate": self.class_loss(output.class_logits, assigned),
        }
        proposals = self.grid_proposals(features, assigned, boxes)
        return TrainingOutput(losses, features, proposals, output.mask_maps)

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """ "class_logits" of each level's grid, and its "mask_maps"."""
        output = self.head([features[level] for level in self.levels])
        return {
            **name_levels("class_logits", self.levels, output.class_logits),
            **name_levels("mask_maps", self.levels, output.mask_maps),
        }

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """See ``Detector.select``."""
        class_logits, maps = (
            levels_named(dense, name, self.levels) for name in ("class_logits", "mask_maps")
        )
        found = []
        for image, size in enumerate(sizes):
            logits, own = [m[image] for m in class_logits], [m[image] for m in maps]
            grid = tuple(own[0].shape[-2:])
            with torch.autocast(own[0].device.type, enabled=False):
                one = self.selector.select_cells(logits, self.soft_masks(own), grid)
            found.append(self.to_candidates(one, size))
        return found

    def soft_masks(self, maps: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """Function: cells [N], counted through all levels, to soft masks [N, h * w] in [0, 1] of
        the finest map's size, from one image's maps, per level [C, h, w].
        """
        grids = torch.tensor(self.head.grids, device=maps[0].device)
        ends = (grids**2).cumsum(0)
        size = tuple(maps[0].shape[-2:])

        def read(cell: Tensor) -> Tensor:
            level = torch.bucketize(cell, ends, right=True)
            local = cell - (ends - grids**2)[level]

            def of_level(index: int, rows: Tensor) -> Tensor:
                soft = self._masks_of(index)(maps[index], local[rows])
                soft = soft.view(len(rows), 1, *maps[index].shape[-2:])
                if soft.shape[-2:] != size:
                    soft = functional.interpolate(soft, size, mode="bilinear", align_corners=False)
                return soft.flatten(1)

            return by_level(level, len(maps), of_level)

        return read

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """The grid cells whose class probability is above the threshold of inference.

        The box of a cell is that of its mask, as of SOLOv2's.
        """
        output = self.head([features[level] for level in self.levels])
        found = {}
        for index, level in enumerate(self.levels):
            probability = output.class_logits[index].sigmoid().amax(dim=1).flatten(1)
            image, cell = (probability > self.selector.score_threshold).nonzero(as_tuple=True)
            boxes = self._mask_boxes(output.mask_maps[index], index, image, cell)
            found[level] = LevelBoxes(image, boxes, self.level_cells(features, level, cell))
        return found

    def _mask_boxes(self, maps: Tensor, level: int, image: Tensor, cell: Tensor) -> Tensor:
        """[P, 4] pixels: boxes of the masks of cells of a level, a few masks at a time."""
        boxes = torch.zeros((len(cell), 4), device=cell.device)
        for index, its_map in enumerate(maps):
            for here in (image == index).nonzero().squeeze(1).split(MASKS_AT_ONCE):
                with torch.autocast(maps.device.type, enabled=False):
                    soft = self._masks_of(level)(its_map, cell[here])
                masks = (soft > self.selector.mask_threshold).view(-1, *its_map.shape[1:])
                boxes[here] = mask_boxes(masks) * self.map_strides[level]
        return boxes

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The mask branch's map within boxes (one [F_i, 4] per image): [F, C, size, size].

        Each box reads the finest level that answers for a face of its size
        (docs/methods.md#comics-pixel-maps).
        """
        every = torch.cat(list(boxes)).float()
        side = (every[:, 2:] - every[:, :2]).prod(dim=1).sqrt()
        highest = side.new_tensor([high for _, high in self.assigner.scale_ranges[:-1]])
        level = torch.bucketize(side, highest)
        return pool_by_level(output.mask_features, self.map_strides, boxes, level, size=size)

    def _masks_of(self, level: int) -> MaskCells:
        found = self.head.masks[level]
        assert isinstance(found, MaskCells)
        return found

    def _mask_loss(
        self, output: SOLOOutput, assigned: Sequence[LevelTargets], targets: Sequence[Faces]
    ) -> tuple[Tensor, Tensor]:
        """Mean Dice loss of all pairs, and the boxes of their masks [P, 4], pixels, detached.

        Pairs are ordered as in ``assigned``, level by level.
        """
        errors, boxes = [], []
        for level, (maps, pairs) in enumerate(zip(output.mask_maps, assigned, strict=True)):
            size, stride = (maps.shape[-2], maps.shape[-1]), self.map_strides[level]
            own = maps.new_zeros(len(pairs.cell), 4)
            for index, faces in enumerate(targets):
                here = (pairs.image == index).nonzero().squeeze(1)
                with torch.autocast(maps.device.type, enabled=False):
                    soft = self._masks_of(level)(maps[index], pairs.cell[here])
                wanted = torch.zeros_like(soft, dtype=torch.bool)
                if len(here):
                    masks = shrink_masks(faces.known_masks, stride, size, self.loss.mask_targets)
                    wanted = masks.flatten(1)[pairs.face[here]]
                errors.append(dice_loss(soft, wanted, smoothing=DICE_SMOOTHING))
                found = (soft.detach() > self.selector.mask_threshold).view(-1, *size)
                own[here] = mask_boxes(found) * stride
            boxes.append(own)
        joined = torch.cat(errors)
        loss = self.loss.mask_weight * joined.sum() / max(len(joined), 1)
        return loss, torch.cat(boxes)

    def _check_fit(self) -> None:
        strides = self.backbone.strides
        missing = [level for level in self.levels if level not in strides]
        if missing:
            raise ValueError(
                f"MODEL.SOLO needs the levels {missing}, the pyramid has {list(strides)}: see "
                "MODEL.FPN.IN_FEATURES and MODEL.FPN.TOP_BLOCK"
            )
        counts = {
            "IN_FEATURES": len(self.levels),
            "NUM_GRIDS": len(self.head.grids),
            "FPN_SCALE_RANGES": len(self.assigner.scale_ranges),
            "FPN_INSTANCE_STRIDES": len(self.selector.smallest_areas),
        }
        if len(set(counts.values())) > 1 or len(self.levels) < 2:
            raise ValueError(f"MODEL.SOLO needs two or more levels, one entry each: {counts}")

"""BlendMask (Chen et al. 2020, arXiv:2001.00309): FCOS, whose faces blend a few image-wide bases.

Each detection predicts a coarse attention map per basis; the bases, cropped with its box, are
summed with the softmaxed attention as weights (section 3.2). Details as in AdelaiDet, whose
``MODEL.BASIS_MODULE`` and ``MODEL.BLENDMASK`` keys configure it.

Shape letters: B images; C channels; K classes; M bases; A side of the attention; R side of the
square masks; P positive locations or detections; F faces of the batch; H, W padded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.base import (
    ImageBatch,
    TrainingOutput,
    levels_named,
    name_levels,
    pad_to,
)
from comics.modeling.detectors.blendmask.basis import BASES_PER_LEVEL_CELL, BasisModule
from comics.modeling.detectors.cells import conv3x3_at_cells
from comics.modeling.detectors.fcos import (
    DenseTraining,
    Detections,
    HeadOutput,
    SquareMaskFCOS,
    detected_cells,
)
from comics.modeling.detectors.pooling import pool_map
from comics.modeling.detectors.target_masks import require_masks, target_masks
from comics.modeling.detectors.towers import PREDICTION_STD
from comics.modeling.layers import fill_bias
from comics.ops.compiled import roi_align
from comics.registry import DETECTORS
from comics.structures import Faces


@DETECTORS.register()
class BlendMask(SquareMaskFCOS):
    """FCOS with masks.

    Args:
        basis_module: makes the bases.
        attention_size: A, cells.
        attention_mode: interpolation of the attention to R, "bilinear", "nearest" or "bicubic".
        resolution: R, cells.
        pooler_scale: cells of the bases per pixel.
        pooler_samples: ROIAlign samples per bin and direction when the bases are cropped.
        instance_weight, semantic_weight: factors on the mask and the auxiliary loss.
        label_step: pixels between the semantic labels that are read.
        paste_clipped, mask_on: see ``SquareMaskFCOS``.
        fcos: arguments of ``FCOS``.

    Raises:
        ValueError: if the basis module's levels, ``pooler_scale`` or ``label_step`` do not fit
            the backbone, or the quality branch predicts IoU (the mask loss needs centre-ness).
    """

    selection_parts = ("attention",)

    def __init__(
        self,
        *,
        basis_module: BasisModule,
        attention_size: int = 14,
        attention_mode: str = "bilinear",
        resolution: int = 56,
        pooler_scale: float = 0.25,
        pooler_samples: int = 1,
        instance_weight: float = 1.0,
        semantic_weight: float = 0.3,
        label_step: int = 8,
        paste_clipped: bool = False,
        mask_on: bool = True,
        **fcos: Any,
    ) -> None:
        super().__init__(paste_clipped=paste_clipped, mask_on=mask_on, **fcos)
        self.basis_module = basis_module
        self.attention_size = attention_size
        self.attention_mode = attention_mode
        self.resolution = resolution
        self.pooler_scale = pooler_scale
        self.pooler_samples = pooler_samples
        self.instance_weight = instance_weight
        self.semantic_weight = semantic_weight
        self.label_step = label_step
        self.num_bases = basis_module.bases.out_channels
        self.attention = nn.Conv2d(
            self.backbone.out_channels, self.num_bases * attention_size**2, 3, padding=1
        )
        nn.init.normal_(self.attention.weight, std=PREDICTION_STD)
        fill_bias(self.attention, 0)
        self._check_fit()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BlendMask:
        """From the keys of ``FCOS``, ``MODEL.BASIS_MODULE`` and ``MODEL.BLENDMASK``."""
        node = cfg.MODEL.BLENDMASK
        parts = cls.parts_from_config(cfg)
        return cls(
            basis_module=BasisModule.from_config(cfg, parts["backbone"].out_channels),
            attention_size=node.ATTN_SIZE,
            attention_mode=node.TOP_INTERP,
            resolution=node.BOTTOM_RESOLUTION,
            pooler_scale=node.POOLER_SCALES[0],
            pooler_samples=node.POOLER_SAMPLING_RATIO,
            instance_weight=node.INSTANCE_LOSS_WEIGHT,
            semantic_weight=cfg.MODEL.BASIS_MODULE.LOSS_WEIGHT,
            label_step=cfg.MODEL.BASIS_MODULE.COMMON_STRIDE,
            paste_clipped=node.PASTE_CLIPPED,
            mask_on=cfg.MODEL.MASK_ON,
            **parts,
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """FCOS's losses, "loss_mask", and "loss_basis_sem" where the basis module has it.

        Raises:
            ValueError: if the faces of an image have no masks.
        """
        require_masks(targets)
        bases, mask_features = self.basis_module(features)
        dense = self.dense_training(features, targets)
        losses = dict(dense.loss.losses)
        losses["loss_mask"] = self.instance_weight * self._mask_loss(dense, bases, targets)
        if self.basis_module.semantic is not None:
            height, width = batch.tensor.shape[-2:]
            grid = (height // self.label_step, width // self.label_step)
            labels = semantic_labels(targets, self.label_step, grid)
            losses["loss_basis_sem"] = self.semantic_weight * self.basis_module.semantic_loss(
                features, labels
            )
        return TrainingOutput(losses, features, self.proposals(dense), mask_features)

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """ "bases", and the "box_tower" of each level: attention is predicted at detections only.

        Everywhere it would be M * A * A channels wide, three times the tower.
        """
        if not self.mask_on:
            return {}
        bases, _ = self.basis_module(features)
        return {"bases": bases, **name_levels("box_tower", self.levels, head.box_tower)}

    def square_masks(
        self, dense: dict[str, Tensor], detections: Sequence[Detections]
    ) -> list[Tensor]:
        """Per image the soft masks [P, R, R] in [0, 1] that fill the detections' boxes."""
        attention = conv3x3_at_cells(
            self.attention,
            levels_named(dense, "box_tower", self.levels),
            *detected_cells(detections),
        )
        crops = self._pool(dense["bases"], [one.boxes for one in detections])
        soft = self._blend(crops, attention).sigmoid()
        return list(soft.split([len(one) for one in detections]))

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The basis module's last map within boxes (one [F_i, 4] per image): [F, C, size, size]."""
        return pool_map(output.mask_features, boxes, size, self.pooler_scale)

    def _mask_loss(self, dense: DenseTraining, bases: Tensor, targets: Sequence[Faces]) -> Tensor:
        """Centre-ness-weighted mean of the positives' pixel-wise cross-entropies."""
        found = dense.positives
        attention = conv3x3_at_cells(
            self.attention,
            dense.head.box_tower,
            found.level,
            found.image,
            found.cell,
            found.level_sizes,
        )
        crops = self._pool(bases, [faces.boxes for faces in targets])
        wanted = target_masks(targets, self.resolution)
        errors = functional.binary_cross_entropy_with_logits(
            self._blend(crops[found.face], attention), wanted[found.face].float(), reduction="none"
        ).mean(dim=(1, 2))
        return (errors * dense.loss.weights).sum() / dense.loss.weight_sum

    def _pool(self, bases: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Bases within boxes: [F, M, R, R] float32."""
        return roi_align(
            bases.float(),
            [b.float() for b in boxes],
            self.resolution,
            spatial_scale=self.pooler_scale,
            sampling_ratio=self.pooler_samples,
            aligned=True,
        )

    def _blend(self, crops: Tensor, attention: Tensor) -> Tensor:
        """Logits [P, R, R] from crops [P, M, R, R] and attention [P, M * A * A]."""
        return blend(crops, attention.float(), self.attention_size, self.attention_mode)

    def _check_fit(self) -> None:
        strides = self.backbone.strides
        missing = [level for level in self.basis_module.levels if level not in strides]
        if missing:
            raise ValueError(
                f"MODEL.BASIS_MODULE.IN_FEATURES {missing} are not among {list(strides)}"
            )
        stride = strides[self.basis_module.levels[0]]
        if self.pooler_scale != BASES_PER_LEVEL_CELL / stride:
            raise ValueError(
                f"bases have {BASES_PER_LEVEL_CELL / stride} cells per pixel, but "
                f"MODEL.BLENDMASK.POOLER_SCALES says {self.pooler_scale}"
            )
        if self.basis_module.semantic is not None and self.label_step != stride:
            raise ValueError(
                f"MODEL.BASIS_MODULE.COMMON_STRIDE must be {stride}, got {self.label_step}"
            )
        if not self.loss.quality.weights_losses:
            raise ValueError("BlendMask's mask loss needs MODEL.FCOS.BOX_QUALITY 'ctrness'")


def blend(crops: Tensor, attention: Tensor, attention_size: int, mode: str) -> Tensor:
    """Sum of crops weighted with the softmax over bases of the enlarged attention (eq. 4-5).

    Args:
        crops: [P, M, R, R].
        attention: [P, M * A * A].
        attention_size: A.
        mode: of ``interpolate``.

    Returns:
        [P, R, R] logits.
    """
    count, bases, resolution, _ = crops.shape
    coarse = attention.view(count, bases, attention_size, attention_size)
    corners = False if mode in ("bilinear", "bicubic") else None
    weights = functional.interpolate(coarse, resolution, mode=mode, align_corners=corners)
    return (weights.softmax(dim=1) * crops).sum(dim=1)


def semantic_labels(targets: Sequence[Faces], step: int, grid: tuple[int, int]) -> Tensor:
    """Class + 1 of the last face that covers pixel (step * i, step * j), 0 where there is none.

    Args:
        targets: faces of each image.
        step: pixels between the labels.
        grid: (h, w) in labels, of the padded image.

    Returns:
        [B, h, w] int64.
    """
    maps = []
    for faces in targets:
        height, width = faces.image_size
        shape = (1, -(-height // step), -(-width // step))
        label = torch.zeros(shape, dtype=torch.int64, device=faces.boxes.device)
        if len(faces):
            number = torch.arange(1, len(faces) + 1, device=label.device)[:, None, None]
            last = (faces.known_masks[:, ::step, ::step] * number).amax(dim=0)
            label = torch.cat((label.new_full((1,), -1), faces.labels))[last][None] + 1
        maps.append(label)
    return pad_to(maps, grid).squeeze(1)

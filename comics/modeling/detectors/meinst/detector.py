"""MEInst (Zhang et al. 2020, arXiv:2003.11712): FCOS, whose locations predict a code of the mask.

The code (``coding``) is regressed like a box, and decoded after the selection: masks cost
one matrix product (section 3.2). Details as in AdelaiDet, whose ``MODEL.MEInst`` keys configure it.

Shape letters: B images; C channels; D coefficients of a code; m side of a decoded mask; h, w of a
level; P positive locations or detections; F faces of the batch; S side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.base import (
    ImageBatch,
    TrainingOutput,
    levels_named,
    name_levels,
)
from comics.modeling.detectors.cells import conv3x3_at_cells, values_at_cells
from comics.modeling.detectors.fcos import (
    DenseTraining,
    Detections,
    FCOSHead,
    HeadOutput,
    SquareMaskFCOS,
    detected_cells,
)
from comics.modeling.detectors.meinst.coding import MaskCoding
from comics.modeling.detectors.pooling import pool_by_reach
from comics.modeling.detectors.target_masks import require_masks, target_masks
from comics.modeling.detectors.towers import (
    DeformableTowers,
    initialise_convs,
    make_tower,
    run_tower,
)
from comics.registry import DETECTORS
from comics.structures import Faces

MASK_LOSSES = ("mse",)


@dataclass(frozen=True)
class MEInstHeadOutput(HeadOutput):
    """As ``HeadOutput``.

    Attributes:
        mask_tower: [B, C, h, w] each, the input of the code predictor.
    """

    mask_tower: list[Tensor]


class GlobalConv(nn.Module):
    """Large separable kernels: k x 1 then 1 x k, plus 1 x k then k x 1.

    Peng et al. 2017 (arXiv:1703.02719, section 3.1), without a nonlinearity as there.

    Args:
        in_channels, out_channels: C and D.
        kernel_size: k, odd.

    Raises:
        ValueError: for an even kernel size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"MODEL.MEInst.GCN_KERNEL_SIZE must be odd, got {kernel_size}")
        tall, wide = (kernel_size, 1), (1, kernel_size)

        def path(first: tuple[int, int], second: tuple[int, int]) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, out_channels, first, padding="same"),
                nn.Conv2d(out_channels, out_channels, second, padding="same"),
            )

        self.tall_first = path(tall, wide)
        self.wide_first = path(wide, tall)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, D, h, w]."""
        return self.tall_first(x) + self.wide_first(x)


class MEInstHead(FCOSHead):
    """FCOS's head with a tower for the mask code.

    Args:
        in_channels: C of the pyramid.
        num_mask_convs: depth of the mask tower.
        code_dim: D.
        global_kernel: kernel size of a ``GlobalConv`` that predicts the code; None: a 3x3
            convolution.
        fcos: arguments of ``FCOSHead``.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_mask_convs: int = 4,
        code_dim: int = 60,
        global_kernel: int | None = None,
        **fcos: Any,
    ) -> None:
        super().__init__(in_channels, **fcos)
        self.mask_tower = make_tower(
            in_channels,
            num_mask_convs,
            norm=fcos.get("norm", "GN"),
            num_levels=fcos["num_levels"],
            deformable=fcos.get("deformable"),
        )
        self.code: nn.Module
        if global_kernel is None:
            self.code = nn.Conv2d(in_channels, code_dim, 3, padding=1)
        else:
            self.code = GlobalConv(in_channels, code_dim, global_kernel)
        initialise_convs(self.mask_tower)
        initialise_convs(self.code)

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.MEInst``; ``cfg`` went through ``with_fcos_keys``."""
        node = cfg.MODEL.MEInst
        deformable = DeformableTowers(
            kind=node.TYPE_DEFORMABLE, last_only=node.LAST_DEFORMABLE, shared=True, bias=False
        )
        return FCOSHead.settings(cfg) | {
            "deformable": deformable if node.USE_DEFORMABLE else None,
            "num_mask_convs": node.NUM_MASK_CONVS,
            "code_dim": node.DIM_MASK,
            "global_kernel": node.GCN_KERNEL_SIZE if node.USE_GCN_IN_MASK else None,
        }

    def forward(self, features: Sequence[Tensor]) -> MEInstHeadOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first; codes apart."""
        output = super().forward(features)
        mask_tower = [
            run_tower(self.mask_tower, shared, level) for level, shared in enumerate(output.shared)
        ]
        return MEInstHeadOutput(**vars(output), mask_tower=mask_tower)

    def code_maps(self, mask_tower: Sequence[Tensor]) -> list[Tensor]:
        """Per level what ``codes_at`` reads: [B, C, h, w] the tower, or [B, D, h, w] all codes.

        A 3x3 convolution is evaluated at the cells asked for; a ``GlobalConv``, whose kernels span
        the map, everywhere.
        """
        if isinstance(self.code, nn.Conv2d):
            return list(mask_tower)
        return [self.code(tower) for tower in mask_tower]

    def codes_at(
        self, code_maps: Sequence[Tensor], level: Tensor, image: Tensor, cell: Tensor
    ) -> Tensor:
        """Predicted codes [P, D] float32 at cells: [P] level, image and row * w + column each."""
        if isinstance(self.code, nn.Conv2d):
            return conv3x3_at_cells(self.code, code_maps, level, image, cell).float()
        return values_at_cells(code_maps, level, image, cell).float()


def _mask_tower(head: HeadOutput) -> list[Tensor]:
    return cast(MEInstHeadOutput, head).mask_tower


@DETECTORS.register()
class MEInst(SquareMaskFCOS):
    """FCOS with masks from codes.

    Args:
        coding: masks to codes and back.
        loss_on_mask: compare decoded masks (cross-entropy of pixels), not codes.
        mask_loss: of codes, "mse".
        paste_clipped, mask_on: see ``SquareMaskFCOS``.
        fcos: arguments of ``FCOS``; its head a ``MEInstHead``.

    Raises:
        ValueError: for an unknown mask loss, or if the quality branch predicts IoU (the mask loss
            needs centre-ness).
    """

    head: MEInstHead
    head_type = MEInstHead
    selection_parts = ("head.code", "coding")

    def __init__(
        self,
        *,
        coding: MaskCoding,
        loss_on_mask: bool = False,
        mask_loss: str = "mse",
        paste_clipped: bool = False,
        mask_on: bool = True,
        **fcos: Any,
    ) -> None:
        super().__init__(paste_clipped=paste_clipped, mask_on=mask_on, **fcos)
        if mask_loss not in MASK_LOSSES:
            raise ValueError(
                f"MODEL.MEInst.MASK_LOSS_TYPE must be one of {MASK_LOSSES}, got {mask_loss!r}"
            )
        if not self.loss.quality.weights_losses:
            raise ValueError("MEInst's mask loss needs MODEL.FCOS.BOX_QUALITY 'ctrness'")
        self.coding = coding
        self.loss_on_mask = loss_on_mask

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MEInst:
        """From the keys of ``MODEL.MEInst``; those of ``MODEL.FCOS`` that it lacks."""
        node = cfg.MODEL.MEInst
        coding = MaskCoding(
            node.DIM_MASK,
            node.MASK_SIZE,
            whiten=node.WHITEN,
            sigmoid=node.SIGMOID,
            path=node.PATH_COMPONENTS,
            keep_loaded=node.FLAG_PARAMETERS,
        )
        return cls(
            coding=coding,
            loss_on_mask=node.LOSS_ON_MASK,
            mask_loss=node.MASK_LOSS_TYPE,
            paste_clipped=node.PASTE_CLIPPED,
            mask_on=cfg.MODEL.MASK_ON,
            **cls.parts_from_config(with_fcos_keys(cfg)),
        )

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """FCOS's losses and the mask's: "loss_MEInst_cls", "_loc", "_ctr" and "_mask".

        ``mask_features`` is the list of the mask tower's maps, finest level first.

        Raises:
            ValueError: if the faces of an image have no masks.
            MaskBasisError: the first time, if the file of the basis cannot be used.
        """
        require_masks(targets)
        self.coding.prepare()
        dense = self.dense_training(features, targets)
        losses = {
            name.replace("_fcos_", "_MEInst_"): loss for name, loss in dense.loss.losses.items()
        }
        losses["loss_MEInst_mask"] = self._mask_loss(dense, targets)
        return TrainingOutput(losses, features, self.proposals(dense), _mask_tower(dense.head))

    def mask_maps(self, features: dict[str, Tensor], head: HeadOutput) -> dict[str, Tensor]:
        """ "code_maps" of each level, see ``MEInstHead.code_maps``."""
        if not self.mask_on:
            return {}
        return name_levels("code_maps", self.levels, self.head.code_maps(_mask_tower(head)))

    def square_masks(
        self, dense: dict[str, Tensor], detections: Sequence[Detections]
    ) -> list[Tensor]:
        """Per image the soft masks [P, m, m] in (0, 1) that fill the detections' boxes."""
        codes = self.head.codes_at(
            levels_named(dense, "code_maps", self.levels), *detected_cells(detections)
        )
        return list(self.coding.decode(codes).split([len(one) for one in detections]))

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The mask tower's map within boxes (one [F_i, 4] per image): [F, C, size, size].

        Each box reads the level that answers for a face of its size
        (docs/methods.md#comics-pixel-maps): the first whose
        bound of ``SIZES_OF_INTEREST`` reaches from the box's centre to its sides.
        """
        bounds, strides = self.assigner.sizes_of_interest, self.assigner.strides
        return pool_by_reach(output.mask_features, strides, bounds, boxes, size=size)

    def _mask_loss(self, dense: DenseTraining, targets: Sequence[Faces]) -> Tensor:
        """Centre-ness-weighted mean of the positives' errors: of codes (eq. 6), or of pixels.

        With ``loss_on_mask`` the decoded values are taken as logits whatever the coding
        (AdelaiDet's rule).
        """
        found = dense.positives
        predicted = self.head.codes_at(
            self.head.code_maps(_mask_tower(dense.head)), found.level, found.image, found.cell
        )
        wanted = target_masks(targets, self.coding.size)[found.face]
        if self.loss_on_mask:
            errors = functional.binary_cross_entropy_with_logits(
                self.coding.reconstruct(predicted), wanted.float(), reduction="none"
            ).flatten(1)
        else:
            errors = (predicted - self.coding.encode(wanted)) ** 2
        divisor = (errors.shape[1] * dense.loss.weight_sum).clamp(min=1.0)
        return (errors.sum(dim=1) * dense.loss.weights).sum() / divisor


def with_fcos_keys(cfg: CfgNode) -> CfgNode:
    """A copy of ``cfg`` whose ``MODEL.FCOS`` has the values of ``MODEL.MEInst``.

    AdelaiDet repeats FCOS's keys under ``MODEL.MEInst``; FCOS's parts read them from their own
    section.
    """
    copy = cfg.clone()
    copy.defrost()
    for key in copy.MODEL.FCOS.keys() & copy.MODEL.MEInst.keys():
        copy.MODEL.FCOS[key] = copy.MODEL.MEInst[key]
    copy.freeze()
    return copy

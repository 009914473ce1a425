"""CondInst (Tian et al. 2020, arXiv:2003.05664): its mask branch, a few maps of the whole image.

Section 3.1, "F_mask"; details as in AdelaiDet. Shape letters: B images; C channels; M mask
features; K classes; h, w of the finest level used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.backbone import FPN
from comics.modeling.layers import ConvNorm, fill_bias
from comics.ops.losses import focal_loss
from comics.ops.upsampling import aligned_upsample

SEMANTIC_STD = 0.01  # of the initial weights of the semantic predictor, as of FCOS's


class MaskBranch(nn.Module):
    """Mask features from the pyramid, at the resolution of its finest level used.

    Args:
        in_channels: C of the pyramid.
        levels: names of the levels used; the first, the finest, sets the resolution.
        strides: pixels per cell of those levels.
        out_channels: M, >= 1.
        channels: of the inner convolutions.
        num_convs: 3x3 convolutions after the levels are summed.
        norm: "BN", "SyncBN", "GN" or "".
        num_classes: K, for the auxiliary semantic segmentation; None leaves it out.
        prior: initial probability of a class at a cell, in (0, 1).

    Raises:
        ValueError: if ``out_channels`` is below 1, or the first stride does not divide the others.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        levels: Sequence[str] = ("p3", "p4", "p5"),
        strides: Sequence[int] = (8, 16, 32),
        out_channels: int = 8,
        channels: int = 128,
        num_convs: int = 4,
        norm: str = "BN",
        num_classes: int | None = None,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(
                f"MODEL.CONDINST.MASK_BRANCH.OUT_CHANNELS must be >= 1, got {out_channels}"
            )
        if any(stride % strides[0] for stride in strides):
            raise ValueError(
                f"MODEL.CONDINST.MASK_BRANCH.IN_FEATURES {list(levels)} have strides "
                f"{list(strides)}; the first must divide the others"
            )
        self.levels = tuple(levels)
        self.stride = strides[0]
        self.factors = tuple(stride // strides[0] for stride in strides)
        block: dict[str, Any] = {"kernel_size": 3, "norm": norm, "activation": True}
        self.refine = nn.ModuleList(ConvNorm(in_channels, channels, **block) for _ in levels)
        self.tower = nn.Sequential(
            *(ConvNorm(channels, channels, **block) for _ in range(num_convs))
        )
        self.mask_features = nn.Conv2d(channels, out_channels, 1)
        self.semantic: nn.Sequential | None = None
        if num_classes is not None:
            self.semantic = nn.Sequential(
                ConvNorm(in_channels, channels, **block),
                ConvNorm(channels, channels, **block),
                nn.Conv2d(channels, num_classes, 1),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.semantic is not None:
            last = cast(nn.Conv2d, self.semantic[2])
            nn.init.normal_(last.weight, std=SEMANTIC_STD)
            fill_bias(last, -math.log((1 - prior) / prior))

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: FPN) -> MaskBranch:
        """From ``MODEL.CONDINST.MASK_BRANCH``.

        Raises:
            ValueError: if the backbone has no such levels.
        """
        node = cfg.MODEL.CONDINST.MASK_BRANCH
        missing = [level for level in node.IN_FEATURES if level not in backbone.strides]
        if missing:
            raise ValueError(
                f"MODEL.CONDINST.MASK_BRANCH.IN_FEATURES {missing} are not among "
                f"{list(backbone.strides)}"
            )
        return cls(
            backbone.out_channels,
            levels=node.IN_FEATURES,
            strides=[backbone.strides[level] for level in node.IN_FEATURES],
            out_channels=node.OUT_CHANNELS,
            channels=node.CHANNELS,
            num_convs=node.NUM_CONVS,
            norm=node.NORM,
            num_classes=cfg.MODEL.FCOS.NUM_CLASSES if node.SEMANTIC_LOSS_ON else None,
            prior=cfg.MODEL.FCOS.PRIOR_PROB,
        )

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mask features [B, M, h, w] and the map they are read from [B, C, h, w]."""
        total, *others = (
            conv(features[level]) for conv, level in zip(self.refine, self.levels, strict=True)
        )
        height, width = total.shape[-2:]
        for other, factor in zip(others, self.factors[1:], strict=True):
            total = total + aligned_upsample(other, factor)[..., :height, :width]
        last = self.tower(total)
        return self.mask_features(last), last

    def semantic_loss(
        self, features: dict[str, Tensor], labels: Tensor, *, alpha: float, gamma: float
    ) -> Tensor:
        """Focal loss of the semantic head, divided by the number of cells that a face covers.

        Args:
            features: the pyramid.
            labels: [B, h, w] int64 on the first level's grid; K background, else the class.
            alpha, gamma: of the focal loss.
        """
        assert self.semantic is not None
        logits = self.semantic(features[self.levels[0]])
        classes = logits.shape[1]
        covered = (labels != classes).sum().clamp(min=1)
        flat = logits.permute(0, 2, 3, 1).flatten(0, 2)
        return focal_loss(flat, labels.flatten(), alpha=alpha, gamma=gamma) / covered


@torch.no_grad()
def smallest_mask_labels(
    masks: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    num_classes: int,
    stride: int,
    grid: tuple[int, int],
) -> Tensor:
    """Class of the smallest mask that covers each cell's pixel, K where there is none.

    A cell (i, j) reads pixel (stride * i + stride // 2, stride * j + stride // 2).

    Args:
        masks: per image [F, H, W] bool, not padded; the area counts all their pixels.
        labels: per image [F] int64.
        num_classes: K.
        stride: pixels between the labels that are read.
        grid: (h, w) in cells, of the padded image.

    Returns:
        [B, h, w] int64.
    """
    start = stride // 2
    found = labels[0].new_full((len(masks), *grid), num_classes)
    for row, image_masks, image_labels in zip(found, masks, labels, strict=True):
        if len(image_masks) == 0:
            continue
        area = image_masks.flatten(1).sum(dim=1)
        read = image_masks[:, start::stride, start::stride]
        cost = torch.where(read, area[:, None, None], torch.iinfo(torch.int64).max)
        smallest = image_labels[cost.argmin(dim=0)]  # the first of equals
        covered = read.any(dim=0)
        row[: read.shape[1], : read.shape[2]] = torch.where(covered, smallest, num_classes)
    return found

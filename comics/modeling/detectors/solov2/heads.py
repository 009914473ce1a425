"""SOLOv2's two heads (Wang et al. 2020, arXiv:2003.10152, sections 3.2 and 3.3).

The instance head looks at every level through a coarse grid and gives each grid cell a class and a
kernel; the mask head merges the levels into one fine map. A kernel convolved with that map is the
mask of the face whose centre lies in the cell. Details as in AdelaiDet.

Shape letters: B images; C channels; K classes; E channels of the mask map, and numbers of a
kernel; S side of a level's grid; h, w of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.layers import ConvNorm, fill_bias
from comics.ops.recording import is_recorded

INITIAL_STD = 0.01  # of the initial weights of all convolutions
COORDINATES = 2  # channels: x, y
NORMS = ("GN", "none")
UPSAMPLING = 2  # between two levels of a pyramid


@dataclass(frozen=True)
class InstanceOutput:
    """Predictions per level, finest first, all float32.

    Attributes:
        class_logits: [B, K, S, S] each.
        kernels: [B, E, S, S] each.
    """

    class_logits: list[Tensor]
    kernels: list[Tensor]


class InstanceHead(nn.Module):
    """Class and kernel of every grid cell; the same towers for every level (section 3.2).

    Args:
        in_channels: C of the pyramid.
        num_classes: K.
        num_kernels: E.
        grids: S of each level.
        channels, num_convs: width and depth of both towers.
        norm: of the towers, "GN" or "none".
        prior: initial probability of a class in a cell, in (0, 1).

    Raises:
        ValueError: for an unknown norm or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_kernels: int = 256,
        grids: Sequence[int] = (40, 36, 24, 16, 12),
        channels: int = 512,
        num_convs: int = 4,
        norm: str = "GN",
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        check_norm(norm)
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.SOLOV2.PRIOR_PROB must lie in (0, 1), got {prior}")
        self.grids = tuple(grids)
        self.class_tower = conv_tower(in_channels, channels, num_convs, norm)
        self.kernel_tower = conv_tower(in_channels + COORDINATES, channels, num_convs, norm)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.kernels = nn.Conv2d(channels, num_kernels, 3, padding=1)
        initialise_small(self)
        fill_bias(self.class_logits, -math.log((1 - prior) / prior))

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> InstanceHead:
        """From ``MODEL.SOLOV2``."""
        node = cfg.MODEL.SOLOV2
        return cls(
            in_channels,
            num_classes=node.NUM_CLASSES,
            num_kernels=node.NUM_KERNELS,
            grids=node.NUM_GRIDS,
            channels=node.INSTANCE_CHANNELS,
            num_convs=node.NUM_INSTANCE_CONVS,
            norm=node.NORM,
            prior=node.PRIOR_PROB,
        )

    def forward(self, features: Sequence[Tensor]) -> InstanceOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = InstanceOutput([], [])
        for feature, grid in zip(even_scales(features), self.grids, strict=True):
            resized = resize_map(with_coordinates(feature), (grid, grid))
            output.kernels.append(self.kernels(self.kernel_tower(resized)).float())
            without = resized[:, :-COORDINATES]
            output.class_logits.append(self.class_logits(self.class_tower(without)).float())
        return output


class MaskHead(nn.Module):
    """All levels merged at the finest one's resolution (section 3.3, figure 3).

    Level l goes through l convolutions, each followed by a x2 enlargement (the finest through one
    convolution alone); the coarsest level is told its coordinates.

    Args:
        in_channels: C of the pyramid.
        num_levels: each of half the resolution of the one before.
        channels: of the inner convolutions.
        num_masks: E.
        norm: of the levels' convolutions, "GN" or "none"; the last one always has GN.

    Raises:
        ValueError: for an unknown norm.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int = 4,
        channels: int = 128,
        num_masks: int = 256,
        norm: str = "GN",
    ) -> None:
        super().__init__()
        check_norm(norm)
        self.levels = nn.ModuleList(
            conv_tower(
                in_channels + (COORDINATES if level == num_levels - 1 else 0),
                channels,
                max(level, 1),
                norm,
            )
            for level in range(num_levels)
        )
        self.predictor = ConvNorm(channels, num_masks, 1, norm="GN", activation=True)
        initialise_small(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> MaskHead:
        """From ``MODEL.SOLOV2``."""
        node = cfg.MODEL.SOLOV2
        return cls(
            in_channels,
            num_levels=len(node.MASK_IN_FEATURES),
            channels=node.MASK_CHANNELS,
            num_masks=node.NUM_MASKS,
            norm=node.NORM,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[B, E, h, w] >= 0 of the finest level's size, from [B, C, h_l, w_l], finest first.

        Each level must have exactly half the height and width of the one before.
        """
        total = self.levels[0](features[0])
        for convolutions, feature in zip(self.levels[1:], features[1:], strict=True):
            merged = with_coordinates(feature) if convolutions is self.levels[-1] else feature
            for convolution in cast(nn.ModuleList, convolutions):
                merged = functional.interpolate(
                    convolution(merged),
                    scale_factor=UPSAMPLING,
                    mode="bilinear",
                    align_corners=False,
                )
            total = total + merged
        return self.predictor(total)


def even_scales(features: Sequence[Tensor]) -> list[Tensor]:
    """Levels of more similar sizes: the finest halved, the coarsest as large as the one before."""
    finest, coarsest = features[0], features[-1]
    halved = resize_map(finest, (max(finest.shape[-2] // 2, 1), max(finest.shape[-1] // 2, 1)))
    height, width = features[-2].shape[-2:]
    enlarged = resize_map(coarsest, (height, width))
    return [halved, *features[1:-1], enlarged]


def with_coordinates(feature: Tensor) -> Tensor:
    """[B, C, h, w] with two more channels, x and y, from -1 at the first cell to 1 at the last."""
    batch, _, height, width = feature.shape
    x = _even_steps(width, feature).expand(batch, 1, height, width)
    y = _even_steps(height, feature)[:, None].expand(batch, 1, height, width)
    return torch.cat((feature, x, y), dim=1)


def _even_steps(count: int, like: Tensor) -> Tensor:
    """[count] from -1 to 1, or -1 alone."""
    options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if not is_recorded():
        return torch.linspace(-1, 1, count, **options)
    # An exported graph would keep the count that linspace was traced with
    index = torch.arange(count, **options)
    return index * (2 / index[-1].clamp(min=1)) - 1


def conv_tower(in_channels: int, channels: int, depth: int, norm: str) -> nn.Sequential:
    """3x3 convolutions with norm and ReLU; a bias only where there is no norm."""
    return nn.Sequential(
        *(
            ConvNorm(
                in_channels if index == 0 else channels,
                channels,
                3,
                norm=norm,
                bias=norm == "none",
                activation=True,
            )
            for index in range(depth)
        )
    )


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] to that size, bilinearly."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def check_norm(norm: str, node: str = "SOLOV2") -> None:
    """Raise ``ValueError``, naming ``MODEL.<node>``, for another norm than "GN" and "none"."""
    if norm not in NORMS:
        raise ValueError(f"MODEL.{node}.NORM must be one of {NORMS}, got {norm!r}")


def initialise_small(module: nn.Module) -> None:
    """Small normal weights and zero biases for every convolution."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=INITIAL_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

"""FCOS: the dense head that every one-stage mask detector here shares (Tian et al. 2019,
arXiv:1904.01355, section 3.1 and figure 2).

Details (normalisation, quality on the box branch, deformable convolutions) as in AdelaiDet, whose
``MODEL.FCOS`` keys configure it.

Shape letters: B images; C channels; K classes; h, w of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.layers import DeformableConv, make_norm

PREDICTION_STD = 0.01  # of the initial weights of towers and predictors
PER_LEVEL_NORMS = ("BN", "SyncBN")  # their statistics differ between levels


@dataclass(frozen=True)
class HeadOutput:
    """Predictions per level, finest first.

    Attributes:
        class_logits: [B, K, h, w] each.
        distances: [B, 4, h, w] each, left, top, right, bottom in strides, >= 0.
        quality_logits: [B, 1, h, w] each.
        box_tower: [B, C, h, w] each, the input of the box predictor.
        shared: [B, C, h, w] each, what all towers start from.
    """

    class_logits: list[Tensor]
    distances: list[Tensor]
    quality_logits: list[Tensor]
    box_tower: list[Tensor]
    shared: list[Tensor]


@dataclass(frozen=True)
class DeformableTowers:
    """Which convolutions of the towers are deformable.

    Attributes:
        kind: "DCNv1" or "DCNv2".
        last_only: the last of each tower; else all of them.
        shared: in the shared tower as well.
        bias: give these convolutions a bias.
    """

    kind: str = "DCNv2"
    last_only: bool = True
    shared: bool = False
    bias: bool = True


class TowerBlock(nn.Module):
    """3x3 convolution, normalisation, ReLU; batch norms are one per level.

    The convolution has a bias; a deformable one where ``deformable`` says so.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: str,
        num_levels: int,
        deformable: DeformableTowers | None = None,
    ) -> None:
        super().__init__()
        if deformable is None:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        else:
            self.conv = DeformableConv(
                channels, channels, kind=deformable.kind, bias=deformable.bias
            )
        if norm in PER_LEVEL_NORMS:
            self.norm = nn.ModuleList(make_norm(norm, channels) for _ in range(num_levels))
        else:
            self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """[B, C, h, w] of that level to the same shape."""
        x = self.conv(x)
        norm = self.norm[level] if isinstance(self.norm, nn.ModuleList) else self.norm
        return functional.relu_(x if norm is None else norm(x))


class FCOSHead(nn.Module):
    """Towers and predictors, the same for every level.

    Args:
        in_channels: C of the pyramid.
        num_classes: K.
        num_levels: of the pyramid.
        num_class_convs, num_box_convs, num_share_convs: depths of the towers; the shared runs
            before the other two.
        norm: of the towers, "GN", "BN", "SyncBN" or "none".
        use_scale: a learnt factor per level on the box predictor.
        prior: initial probability of a class at a location, in (0, 1).
        deformable: which convolutions of the towers are deformable; None: none.

    Raises:
        ValueError: for an unknown norm or deformable convolution, or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_levels: int,
        num_class_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_scale: bool = True,
        prior: float = 0.01,
        deformable: DeformableTowers | None = None,
    ) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.FCOS.PRIOR_PROB must lie in (0, 1), got {prior}")
        tower = partial(make_tower, in_channels, norm=norm, num_levels=num_levels)
        in_shared = deformable if deformable is not None and deformable.shared else None
        self.share_tower = tower(num_share_convs, deformable=in_shared)
        self.class_tower = tower(num_class_convs, deformable=deformable)
        self.box_tower = tower(num_box_convs, deformable=deformable)
        self.class_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(1)) for _ in range(num_levels if use_scale else 0)
        )
        initialise_convs(self)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return {
            "num_classes": node.NUM_CLASSES,
            "num_levels": len(node.IN_FEATURES),
            "num_class_convs": node.NUM_CLS_CONVS,
            "num_box_convs": node.NUM_BOX_CONVS,
            "num_share_convs": node.NUM_SHARE_CONVS,
            "norm": node.NORM,
            "use_scale": node.USE_SCALE,
            "prior": node.PRIOR_PROB,
            "deformable": DeformableTowers() if node.USE_DEFORMABLE else None,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> FCOSHead:
        """From the keys that ``settings`` reads."""
        return cls(in_channels, **cls.settings(cfg))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = HeadOutput([], [], [], [], [])
        for level, feature in enumerate(features):
            shared = run_tower(self.share_tower, feature, level)
            box_tower = run_tower(self.box_tower, shared, level)
            raw = self.box_distances(box_tower).float()
            if len(self.scales):
                raw = raw * self.scales[level]
            class_tower = run_tower(self.class_tower, shared, level)
            output.class_logits.append(self.class_logits(class_tower).float())
            output.distances.append(functional.relu(raw))
            output.quality_logits.append(self.quality(box_tower).float())
            output.box_tower.append(box_tower)
            output.shared.append(shared)
        return output


def make_tower(
    channels: int,
    depth: int,
    *,
    norm: str,
    num_levels: int,
    deformable: DeformableTowers | None = None,
) -> nn.ModuleList:
    """``depth`` blocks of the same width, all or the last of them deformable if asked for."""
    first = 0 if deformable is None or not deformable.last_only else depth - 1
    return nn.ModuleList(
        TowerBlock(
            channels,
            norm=norm,
            num_levels=num_levels,
            deformable=deformable if index >= first else None,
        )
        for index in range(depth)
    )


def initialise_convs(module: nn.Module) -> None:
    """Small normal weights and zero biases for every convolution; offsets of 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=PREDICTION_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, DeformableConv):
            part.reset_offsets()


def run_tower(tower: nn.ModuleList, x: Tensor, level: int) -> Tensor:
    """[B, C, h, w] of that level through the blocks of a tower."""
    for block in tower:
        x = block(x, level)
    return x

"""ResNet (He et al. 2016, arXiv:1512.03385) as a feature extractor of any width.

Widths, strides and freezing follow Detectron2's keys ``MODEL.RESNETS.*``. Depths 18 and 34 use
basic blocks, 50 and 101 bottlenecks; ``NUM_GROUPS`` > 1 gives ResNeXt.
Shape letters: B images; C channels; H, W padded image; h, w of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.layers import ConvNorm, DeformableConvNorm
from comics.ops.srm import SRM_FILTERS

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
FIRST_BOTTLENECK_DEPTH = 50
STAGES = ("res2", "res3", "res4", "res5")
STEM_STRIDE = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C, h, w] to [B, C', h / stride, w / stride].

    ``deformable`` ("DCNv1" or "DCNv2") makes the second one so; "": not.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        norm: str,
        deformable: str = "",
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(
            in_channels, out_channels, 3, stride=stride, norm=norm, activation=True
        )
        self.conv2 = _conv3x3(out_channels, out_channels, norm=norm, deformable=deformable)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the convolutions and the shortcut, rectified."""
        return _join(self.conv2(self.conv1(x)), x, self.shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut.

    ``stride_in_1x1`` puts the stride into the first 1x1 convolution (the original MSRA models)
    instead of the 3x3 (torchvision's). ``deformable``: kind of the 3x3 one, "" for a plain one.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        stride_in_1x1: bool,
        norm: str,
        deformable: str = "",
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_channels, width, 1, stride=first, norm=norm, activation=True)
        self.conv2 = _conv3x3(
            width,
            width,
            stride=second,
            groups=groups,
            norm=norm,
            activation=True,
            deformable=deformable,
        )
        self.conv3 = ConvNorm(width, out_channels, 1, norm=norm)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the convolutions and the shortcut, rectified."""
        return _join(self.conv3(self.conv2(self.conv1(x))), x, self.shortcut)


class ResNet(nn.Module):
    """Stem and stages res2..res5, at strides 4, 8, 16, 32.

    Args:
        depth: 18, 34, 50 or 101.
        stem_channels, res2_channels: output widths; later stages double the latter.
        width_per_group, groups: 3x3 width of res2's bottlenecks is their product.
        stride_in_1x1: see ``Bottleneck``.
        norm: "FrozenBN", "BN", "SyncBN" or "GN".
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also res2, ... 5 all. Batch norms of
            frozen stages become frozen ones.
        stem_high_pass: see ``make_high_pass_``.
        deform_stages: which of res2..res5 have deformable 3x3 convolutions.
        deform_interval: in every such block of a stage, from the first on.
        deform_kind: "DCNv1" or "DCNv2".

    Raises:
        ValueError: for an unknown depth, a ``freeze_at`` outside 0..5, or basic blocks (depth 18
            and 34) with groups, or with a width other than ``res2_channels``, or more high-pass
            channels than the stem has.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        stem_channels: int = 64,
        res2_channels: int = 256,
        width_per_group: int = 64,
        groups: int = 1,
        stride_in_1x1: bool = False,
        norm: str = "FrozenBN",
        freeze_at: int = 2,
        stem_high_pass: int = 0,
        deform_stages: Sequence[bool] = (False,) * len(STAGES),
        deform_interval: int = 1,
        deform_kind: str = "DCNv2",
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet depth must be one of {sorted(BLOCKS)}, got {depth}")
        if not 0 <= freeze_at <= len(STAGES) + 1:
            raise ValueError(f"freeze_at must lie in 0..{len(STAGES) + 1}, got {freeze_at}")
        if depth < FIRST_BOTTLENECK_DEPTH and (groups != 1 or width_per_group != res2_channels):
            raise ValueError(
                f"ResNet-{depth} has basic blocks: NUM_GROUPS must be 1 and RES2_OUT_CHANNELS "
                f"equal WIDTH_PER_GROUP, got {groups}, {res2_channels} and {width_per_group}"
            )
        _check_deformable(deform_stages, deform_interval)
        self.stem = ConvNorm(
            3,
            stem_channels,
            7,
            stride=2,
            norm=_stage_norm(norm, frozen=freeze_at >= 1),
            activation=True,
        )
        self.channels = {name: res2_channels << index for index, name in enumerate(STAGES)}
        self.strides = {name: STEM_STRIDE << index for index, name in enumerate(STAGES)}
        in_channels = stem_channels
        for index, name in enumerate(STAGES):
            stage_norm = _stage_norm(norm, frozen=freeze_at >= index + 2)
            make: Callable[..., nn.Module] = BasicBlock
            if depth >= FIRST_BOTTLENECK_DEPTH:
                width = groups * width_per_group << index
                make = partial(Bottleneck, width=width, groups=groups, stride_in_1x1=stride_in_1x1)
            blocks: list[nn.Module] = []
            for block in range(BLOCKS[depth][index]):
                deformable = deform_stages[index] and block % deform_interval == 0
                blocks.append(
                    make(
                        in_channels,
                        out_channels=self.channels[name],
                        stride=2 if index > 0 and block == 0 else 1,
                        norm=stage_norm,
                        deformable=deform_kind if deformable else "",
                    )
                )
                in_channels = self.channels[name]
            self.add_module(name, nn.Sequential(*blocks))
        self._initialise(freeze_at)
        make_high_pass_(self.stem.conv.weight, stem_high_pass)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ResNet:
        """From ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``."""
        node = cfg.MODEL.RESNETS
        return cls(
            node.DEPTH,
            stem_channels=node.STEM_OUT_CHANNELS,
            res2_channels=node.RES2_OUT_CHANNELS,
            width_per_group=node.WIDTH_PER_GROUP,
            groups=node.NUM_GROUPS,
            stride_in_1x1=node.STRIDE_IN_1X1,
            norm=node.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            stem_high_pass=node.STEM_HIGH_PASS,
            deform_stages=node.DEFORM_ON_PER_STAGE,
            deform_interval=node.DEFORM_INTERVAL,
            deform_kind="DCNv2" if node.DEFORM_MODULATED else "DCNv1",
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to stage name -> [B, C, h, w], res2..res5."""
        x = functional.max_pool2d(self.stem(x), kernel_size=3, stride=2, padding=1)
        stages = {}
        for name in STAGES:
            x = getattr(self, name)(x)
            stages[name] = x
        return stages

    def _initialise(self, freeze_at: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, DeformableConvNorm):
                module.reset_offsets()
        for stage in (self.stem, *(getattr(self, name) for name in STAGES))[:freeze_at]:
            stage.requires_grad_(False)


@torch.no_grad()
def make_high_pass_(weight: Tensor, channels: int) -> None:
    """Make the first filters of a convolution high-pass, in place: they give 0 for flat regions.

    Forgery leaves its traces in noise residuals, which are weak beside the content; steganalysis
    starts its networks from high-pass filters for the same reason (Ye et al. 2017). Here the
    random filters are kept and convolved with the 3x3 SRM kernel KB: any linear ramp gives 0 too.

    Args:
        weight: [O, C, K, K], K >= 5; initialised.
        channels: how many of the O filters; 0 changes nothing.

    Raises:
        ValueError: for more channels than there are.
    """
    if not 0 <= channels <= len(weight):
        raise ValueError(f"STEM_HIGH_PASS must lie in 0..{len(weight)}, got {channels}")
    if channels == 0:
        return
    rows, divisor = SRM_FILTERS[0]
    kernel = weight.new_tensor(rows)[None, None, 1:4, 1:4] / divisor
    inner = weight[:channels, :, 1:-1, 1:-1].flatten(0, 1)[:, None]
    filtered = functional.conv2d(inner, kernel, padding=2)
    weight[:channels] = filtered.view_as(weight[:channels])


def _check_deformable(stages: Sequence[bool], interval: int) -> None:
    if len(stages) != len(STAGES) or interval < 1:
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE needs {len(STAGES)} entries and DEFORM_INTERVAL 1 "
            f"or more, got {list(stages)} and {interval}"
        )


def _stage_norm(norm: str, *, frozen: bool) -> str:
    return "FrozenBN" if frozen and norm in ("BN", "SyncBN") else norm


def _conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: str,
    activation: bool = False,
    deformable: str,
) -> ConvNorm:
    if not deformable:
        return ConvNorm(
            in_channels,
            out_channels,
            3,
            stride=stride,
            groups=groups,
            norm=norm,
            activation=activation,
        )
    return DeformableConvNorm(
        in_channels,
        out_channels,
        stride=stride,
        groups=groups,
        norm=norm,
        activation=activation,
        kind=deformable,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> ConvNorm | None:
    if in_channels == out_channels and stride == 1:
        return None
    return ConvNorm(in_channels, out_channels, 1, stride=stride, norm=norm)


def _join(out: Tensor, x: Tensor, shortcut: nn.Module | None) -> Tensor:
    out += x if shortcut is None else shortcut(x)
    return functional.relu_(out)

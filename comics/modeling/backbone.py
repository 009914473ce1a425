"""Feature pyramid (Lin et al. 2017, arXiv:1612.03144) over a ResNet or any timm model.

Levels are named by stride: p3 has stride 8, p4 16, ... FCOS's p6 and p7 are computed from p5
(Tian et al. 2019, arXiv:1904.01355, section 3.2).
Shape letters: B images; C channels; H, W padded image; h, w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.layers import ConvNorm, StridedConv
from comics.modeling.resnet import STAGES, ResNet
from comics.registry import BACKBONE_SOURCES

TIMM_PREFIX = "timm/"
# Detectron2's and AdelaiDet's names for what "resnet" is here
RESNET_NAMES = (
    "resnet",
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
)
TOP_BLOCKS = ("conv", "pool")
STAGE_OF_STRIDE = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class TimmBackbone(nn.Module):
    """A timm model as feature extractor, its outputs named by stride as a ResNet's stages.

    Weights are random: pretrained ones come from a file, as every other model's.

    Args:
        name: timm's model name, e.g. "efficientnet_b0".
        stages: which outputs are needed, e.g. ("res3", "res4", "res5").

    Raises:
        ValueError: for a model that timm does not know or cannot extract features from, or one
            that lacks a needed stride.
    """

    def __init__(self, name: str, stages: Sequence[str]) -> None:
        import timm  # takes a second, and a ResNet needs none of it

        super().__init__()
        try:
            self.model = timm.create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(
                f"timm cannot make a feature extractor of {name!r}: {error}"
            ) from error
        info = self.model.feature_info
        reductions = info.reduction()
        self.position = {
            STAGE_OF_STRIDE[reduction]: position
            for position, reduction in enumerate(reductions)
            if reduction in STAGE_OF_STRIDE
        }
        missing = [stage for stage in stages if stage not in self.position]
        if missing:
            needed = [stride for stride, stage in STAGE_OF_STRIDE.items() if stage in stages]
            raise ValueError(
                f"timm model {name!r} has features at strides {reductions}; the pyramid needs "
                f"{needed}"
            )
        self.position = {stage: self.position[stage] for stage in stages}
        self.channels = {s: info.channels()[p] for s, p in self.position.items()}
        self.strides = {s: reductions[p] for s, p in self.position.items()}
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to stage name -> [B, C, h, w].

        Raises:
            ValueError: if a map is not H / stride cells high and W / stride wide, as of models
                that do not pad: the head could not tell where its cells lie.
        """
        outputs = self.model(x)
        stages = {stage: outputs[position] for stage, position in self.position.items()}
        if self.channels_last:
            stages = {stage: out.permute(0, 3, 1, 2) for stage, out in stages.items()}
        for stage, out in stages.items():
            expected = tuple(-(-side // self.strides[stage]) for side in x.shape[-2:])
            if tuple(out.shape[-2:]) != expected:
                raise ValueError(
                    f"this timm model's features at stride {self.strides[stage]} are "
                    f"{tuple(out.shape[-2:])} for an image of {tuple(x.shape[-2:])}, not {expected}"
                )
        return stages


class Pyramid(nn.Module):
    """What a detector asks of a backbone: [B, 3, H, W] to level name -> [B, C, h, w].

    Attributes:
        strides: level name -> pixels per cell.
        out_channels: C.
        size_divisibility: image sides must be multiples of this.
    """

    strides: dict[str, int]
    out_channels: int
    size_divisibility: int


class FPN(Pyramid):
    """Lateral 1x1 and output 3x3 convolutions with a top-down sum, then strided top levels.

    Args:
        bottom_up: maps images to stage name -> features; has ``channels`` and ``strides``.
        in_features: stages to use, finest first.
        out_channels: width of every level.
        norm: "" or "GN"; with a norm the convolutions have no bias.
        top_levels: 0, 1 (p6) or 2 (p6, p7): 3x3 convolutions of stride 2 above the last level.
        top_block: "conv": those; "pool": one more level, every second cell of the last, as in
            Detectron2's own pyramid, whatever ``top_levels``.

    Attributes:
        strides: level name -> pixels per cell.
        size_divisibility: image sides must be multiples of this.

    Raises:
        ValueError: for stages the bottom-up network lacks, or whose strides do not double, or
            ``top_levels`` outside 0..2, or an unknown ``top_block``.
    """

    def __init__(
        self,
        bottom_up: ResNet | TimmBackbone,
        in_features: Sequence[str],
        *,
        out_channels: int = 256,
        norm: str = "",
        top_levels: int = 2,
        top_block: str = "conv",
    ) -> None:
        super().__init__()
        if top_levels not in (0, 1, 2):
            raise ValueError(f"top_levels must be 0, 1 or 2, got {top_levels}")
        if top_block not in TOP_BLOCKS:
            raise ValueError(f"MODEL.FPN.TOP_BLOCK must be one of {TOP_BLOCKS}, got {top_block!r}")
        unknown = [name for name in in_features if name not in bottom_up.strides]
        if unknown or not in_features:
            raise ValueError(
                f"the pyramid's stages must be among {list(bottom_up.strides)}, got "
                f"{list(in_features)}"
            )
        strides = [bottom_up.strides[name] for name in in_features]
        if any(second != 2 * first for first, second in zip(strides, strides[1:], strict=False)):
            raise ValueError(f"strides of {list(in_features)} must double, got {strides}")
        self.bottom_up = bottom_up
        self.out_channels = out_channels
        self.level_of = {name: f"p{name.removeprefix('res')}" for name in in_features}
        self.size_divisibility = strides[-1]
        self.strides = dict(zip(self.level_of.values(), strides, strict=True))
        kwargs: dict[str, Any] = {"norm": norm, "bias": norm == ""}
        self.lateral = nn.ModuleDict(
            {
                level: ConvNorm(bottom_up.channels[name], out_channels, 1, **kwargs)
                for name, level in self.level_of.items()
            }
        )
        self.output = nn.ModuleDict(
            {
                level: ConvNorm(out_channels, out_channels, 3, **kwargs)
                for level in self.level_of.values()
            }
        )
        self.top = nn.ModuleDict()
        number = int(list(self.level_of.values())[-1].removeprefix("p"))
        for extra in range(1, (1 if top_block == "pool" else top_levels) + 1):
            level = f"p{number + extra}"
            self.top[level] = _top_level(top_block, out_channels)
            self.strides[level] = strides[-1] << extra
        self._initialise()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to level name -> [B, C, h, w], finest first."""
        stages = self.bottom_up(images)
        merged: dict[str, Tensor] = {}
        above = None
        for name, level in reversed(self.level_of.items()):
            lateral = self.lateral[level](stages[name])
            if above is not None:
                lateral += functional.interpolate(above, size=lateral.shape[-2:], mode="nearest")
            merged[level] = above = lateral
        levels = {level: self.output[level](merged[level]) for level in self.level_of.values()}
        last = levels[list(levels)[-1]]
        for position, (level, conv) in enumerate(self.top.items()):
            last = conv(last if position == 0 else functional.relu(last))
            levels[level] = last
        return levels

    def _initialise(self) -> None:
        for part in (self.lateral, self.output, self.top):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, a=1)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)


def _top_level(top_block: str, channels: int) -> nn.Module:
    if top_block == "pool":
        return nn.MaxPool2d(1, stride=2)
    return StridedConv(channels, channels, 3, stride=2, padding=1)


def build_backbone(cfg: CfgNode) -> Pyramid:
    """The pyramid that ``MODEL.BACKBONE``, ``MODEL.RESNETS`` and ``MODEL.FPN`` describe.

    An ``FPN``, or a pyramid of another library (``comics.registry.BACKBONE_SOURCES``) with the
    attributes ``strides``, ``out_channels`` and ``size_divisibility`` of one.

    ``MODEL.FPN.TOP_BLOCK`` and ``MODEL.FCOS.TOP_LEVELS`` set the levels above p5.
    ``MODEL.BACKBONE.FREEZE_AT`` exists for ResNets only: timm's models have no common notion of
    stages to freeze.

    Raises:
        ValueError: for an unknown backbone, or ``FREEZE_AT`` > 0 with a timm model.
    """
    name = cfg.MODEL.BACKBONE.NAME
    source = name.partition("/")[0]
    if source in BACKBONE_SOURCES:
        return BACKBONE_SOURCES.get(source)(cfg)
    in_features = list(cfg.MODEL.FPN.IN_FEATURES)
    unknown = [stage for stage in in_features if stage not in STAGES]
    if unknown:
        raise ValueError(f"MODEL.FPN.IN_FEATURES must be among {STAGES}, got {unknown}")
    bottom_up: ResNet | TimmBackbone
    if name in RESNET_NAMES:
        bottom_up = ResNet.from_config(cfg)
    elif name.startswith(TIMM_PREFIX):
        if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is for ResNets; set it to 0 for {name!r}, got "
                f"{cfg.MODEL.BACKBONE.FREEZE_AT}"
            )
        bottom_up = TimmBackbone(name.removeprefix(TIMM_PREFIX), in_features)
    else:
        raise ValueError(
            f"unknown MODEL.BACKBONE.NAME {name!r}; choices: {', '.join(RESNET_NAMES)}, or "
            f"{TIMM_PREFIX}<model name>; those of Detectron2 need --runtime detectron2"
        )
    return FPN(
        bottom_up,
        in_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_levels=cfg.MODEL.FCOS.TOP_LEVELS,
        top_block=cfg.MODEL.FPN.TOP_BLOCK,
    )

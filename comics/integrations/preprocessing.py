"""What images foreign weights were trained on, and whether a model gives them such images.

Nothing fails visibly where they differ: the features are only worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from comics.config import CfgNode
from comics.integrations.checkpoint_files import Checkpoint
from comics.integrations.formats import (
    ADELAIDET,
    CAFFE2_BACKBONE,
    COMICS,
    DETECTRON2,
    DETECTRON2_BACKBONE,
    TORCHVISION_RESNET,
)
from comics.modeling.face_forensics import FACE_METHOD
from comics.modeling.faces.base import FaceMethod
from comics.modeling.resnet import Bottleneck, ResNet


@dataclass(frozen=True)
class Preprocessing:
    """The images that weights expect; None where that is not known or does not apply.

    Attributes:
        channels: "RGB" or "BGR", INPUT.FORMAT.
        mean, std: of pixels on the 0-255 scale, in the order of ``channels``.
        stride_in_1x1: MODEL.RESNETS.STRIDE_IN_1X1, of the network more than of the images, but
            just as silent when wrong.
    """

    channels: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    stride_in_1x1: bool | None


# Statistics of ImageNet: MSRA's models only subtract the mean, torchvision's also divide
MSRA = Preprocessing("BGR", (103.530, 116.280, 123.675), (1.0, 1.0, 1.0), True)
TORCHVISION = Preprocessing("RGB", (123.675, 116.280, 103.530), (58.395, 57.120, 57.375), False)
# Of the R-50 and R-101 of Detectron2's and AdelaiDet's model zoos
_USUAL = {
    CAFFE2_BACKBONE: MSRA,
    DETECTRON2: MSRA,
    ADELAIDET: MSRA,
    TORCHVISION_RESNET: TORCHVISION,
}
TOLERANCE = 0.01  # of means and deviations, on the 0-255 scale: files round them differently
PIXEL_SCALE = 255.0  # timm states mean and deviation on the 0-1 scale


def wanted_preprocessing(
    checkpoint: Checkpoint, source_format: str, timm_model: nn.Module | None, cfg: CfgNode | None
) -> Preprocessing | None:
    """What images a checkpoint was trained on, as far as it is known.

    Args:
        checkpoint: the file.
        source_format: of ``recognise``.
        timm_model: the timm model that the weights go into, if they do.
        cfg: the file's own configuration, if it is a model file of ours.
    """
    if source_format == COMICS:
        return None if cfg is None else _configured(cfg)
    if timm_model is not None:
        described = cast(Mapping[str, Sequence[float]], timm_model.pretrained_cfg)
        mean, std = (
            tuple(PIXEL_SCALE * value for value in described[name]) for name in ("mean", "std")
        )
        return Preprocessing("RGB", mean, std, None)
    if source_format == DETECTRON2_BACKBONE and checkpoint.author == "torchvision":
        return TORCHVISION
    return _USUAL.get(source_format)


def preprocessing_faults(model: nn.Module, wanted: Preprocessing) -> list[str]:
    """Settings of a model that differ from what weights want: a sentence each, naming the key."""
    network = getattr(model, "detector", model)
    keys = "MODEL.FACE" if isinstance(network, FaceMethod) else "MODEL"
    given = {
        "INPUT.FORMAT": (getattr(network, "pixel_format", None), wanted.channels),
        f"{keys}.PIXEL_MEAN": (_values(network, "pixel_mean"), wanted.mean),
        f"{keys}.PIXEL_STD": (_values(network, "pixel_std"), wanted.std),
        "MODEL.RESNETS.STRIDE_IN_1X1": (_stride_in_1x1(network), wanted.stride_in_1x1),
    }
    return [
        f"{key} is {_shown(own)}, these weights want {_shown(theirs)}"
        for key, (own, theirs) in given.items()
        if own is not None and theirs is not None and not _close(own, theirs)
    ]


def _configured(cfg: CfgNode) -> Preprocessing:
    if cfg.MODEL.META_ARCHITECTURE == FACE_METHOD:
        face = cfg.MODEL.FACE
        mean, std = tuple(face.PIXEL_MEAN) or None, tuple(face.PIXEL_STD) or None
        return Preprocessing(None, mean, std, None)
    mean, std = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    return Preprocessing(cfg.INPUT.FORMAT, mean, std, cfg.MODEL.RESNETS.STRIDE_IN_1X1)


def _values(network: nn.Module, name: str) -> tuple[float, ...] | None:
    buffer = getattr(network, name, None)
    return None if buffer is None else tuple(buffer.flatten().tolist())


def _stride_in_1x1(network: nn.Module) -> bool | None:
    """Where a ResNet of bottlenecks has its strides; None for any other network."""
    bottom_up = getattr(getattr(network, "backbone", None), "bottom_up", None)
    if not isinstance(bottom_up, ResNet):
        return None
    block = bottom_up.get_submodule("res3.0")
    return block.conv1.conv.stride[0] > 1 if isinstance(block, Bottleneck) else None


def _close(own: object, theirs: object) -> bool:
    if isinstance(own, tuple) and isinstance(theirs, tuple):
        return all(abs(a - b) <= TOLERANCE for a, b in zip(own, theirs, strict=True))
    return own == theirs


def _shown(value: object) -> str:
    return str([round(v, 3) for v in value]) if isinstance(value, tuple) else repr(value)

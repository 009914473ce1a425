"""Detectron2's backbones under our detectors: ``MODEL.BACKBONE.NAME`` "detectron2/<builder>".

In this runtime the name alone is enough: a builder that ``BACKBONE_REGISTRY`` holds is meant. The
weights keep Detectron2's names (``backbone.bottom_up.res2.0.conv1.weight``, ...), so its model zoo
loads, and our model files, made with our backbone, do not.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone

from comics.registry import BACKBONE_SOURCES

SOURCE = "detectron2"


def is_detectron2_backbone(cfg: CfgNode) -> bool:
    """Whether ``MODEL.BACKBONE.NAME`` means one of Detectron2's."""
    name = cfg.MODEL.BACKBONE.NAME
    return name.startswith(f"{SOURCE}/") or name in BACKBONE_REGISTRY


def with_backbone_source(cfg: CfgNode) -> CfgNode:
    """The configuration with Detectron2's backbones named as such; else ``cfg`` itself."""
    name = cfg.MODEL.BACKBONE.NAME
    return _renamed(cfg, f"{SOURCE}/{name}") if name in BACKBONE_REGISTRY else cfg


@BACKBONE_SOURCES.register()
def detectron2(cfg: CfgNode) -> Backbone:
    """A pyramid of Detectron2's with the attributes that our detectors read.

    Args:
        cfg: Detectron2's configuration.

    Raises:
        KeyError: for a builder that is not registered.
        ValueError: if it gives no pyramid of one width, and as ``require_free_size``.
    """
    name = cfg.MODEL.BACKBONE.NAME.removeprefix(f"{SOURCE}/")
    backbone = build_backbone(_renamed(cfg, name))
    shapes = backbone.output_shape()
    channels = {shape.channels for shape in shapes.values()}
    if len(channels) != 1 or len(shapes) < 2:
        raise ValueError(
            f"MODEL.BACKBONE.NAME {name!r} is no feature pyramid: levels {list(shapes)} of "
            f"{sorted(channels)} channels; choose a builder with FPN"
        )
    require_free_size(backbone, f"MODEL.BACKBONE.NAME {name!r}")
    backbone.strides = {level: shape.stride for level, shape in shapes.items()}
    (backbone.out_channels,) = channels
    return backbone


def require_free_size(backbone: Backbone, name: str) -> None:
    """Refuse a backbone whose images cannot be padded as ours are, each side by itself.

    Args:
        backbone: of Detectron2.
        name: begins the message.

    Raises:
        ValueError: if it asks for square images, or for no multiple of any number.
    """
    advice = "choose MODEL.BACKBONE.NAME build_resnet_fpn_backbone, or another ..._fpn_backbone"
    if backbone.padding_constraints.get("square_size", 0) > 0:
        raise ValueError(f"{name} needs square images (ViTDet's does), not made here: {advice}")
    if backbone.size_divisibility < 1:
        raise ValueError(f"{name} does not say what sides must be multiples of: {advice}")


def _renamed(cfg: CfgNode, name: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = name
    return cfg

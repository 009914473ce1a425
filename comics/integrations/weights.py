"""Weights of other programs, or of another variant of a model, into a model of ours.

``load_foreign_weights`` does it all: it reads a file (``checkpoint_files``; none can run code),
recognises its format by its names (``formats``), renames (``key_maps``; a key that no rule knows is
reported, not guessed), and loads what fits. What must not be loaded in part is refused before
anything is: a backbone of another depth or width, or the heads of another detector.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from comics.config import CfgNode, load_config_text
from comics.integrations import formats
from comics.integrations.checkpoint_files import (
    Checkpoint,
    read_checkpoint,
    read_checkpoint_file,
)
from comics.integrations.key_maps import (
    blendmask,
    caffe2_resnet,
    condinst,
    detectron2_fpn,
    efficientnet_pytorch,
    fcos,
    mask_rcnn,
    meinst,
    solov2,
    torchvision_resnet,
)
from comics.integrations.key_maps.rules import rename
from comics.integrations.key_maps.timm_features import rename_features, surplus_layers
from comics.integrations.matching import LoadReport, check_architecture, load_matching, match
from comics.integrations.preprocessing import preprocessing_faults, wanted_preprocessing
from comics.modeling.backbone import TimmBackbone
from comics.modeling.comics import Comics
from comics.modeling.face_forensics import PARTS, FaceForensics, temperature_name
from comics.modeling.faces.base import FaceMethod
from comics.modeling.faces.encoder import TimmEncoder
from comics.modeling.weights import require_finite

__all__ = [  # with what this module only passes on
    "LoadReport",
    "convert",
    "convert_adelaidet",
    "convert_detectron2",
    "convert_resnet",
    "convert_torchvision_resnet",
    "detector_prefix",
    "load_foreign_weights",
    "load_matching",
    "plan_loading",
    "read_checkpoint",
    "read_checkpoint_file",
    "timm_model_of",
]

logger = logging.getLogger(__name__)

DETECTOR_PREFIX = "detector."  # of a detector's names within ``Comics``
BOTTOM_UP = "backbone.bottom_up."
NORM_SCALE = ".norm.weight"
CONFIG = "config"  # of the metadata of our model files
RESNET_FORMATS = (
    formats.TORCHVISION_RESNET,
    formats.DETECTRON2_BACKBONE,
    formats.CAFFE2_BACKBONE,
)
# What timm's models may look like, and what is renamed to one
TIMM_FORMATS = (formats.TORCHVISION_RESNET, formats.EFFICIENTNET_PYTORCH, formats.OTHER)
# Modules with ``rules(state)``; their keys do not overlap
ADELAIDET = (fcos, blendmask, condinst, meinst, solov2)
PIXEL_STATISTICS = ("pixel_mean", "pixel_std")  # ours come from the configuration
DETECTRON2_ANCHORS = "proposal_generator.anchor_generator."  # so do these


def convert_adelaidet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """AdelaiDet's FCOS or BlendMask to our names.

    ``pixel_mean`` and ``pixel_std``, which old checkpoints carry, are left out.

    Returns:
        The renamed tensors, and the keys that have no counterpart here, sorted.
    """
    rules = [*detectron2_fpn.RULES, *(r for part in ADELAIDET for r in part.rules(state))]
    kept = {name: value for name, value in state.items() if name not in PIXEL_STATISTICS}
    return rename(kept, rules)


def convert_detectron2(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Detectron2's Mask R-CNN to our names.

    Weights of its model zoo want ``INPUT.FORMAT`` "BGR", ``MODEL.PIXEL_STD`` [1, 1, 1] and
    ``MODEL.RESNETS.STRIDE_IN_1X1`` True. Pixel statistics and anchors, which old checkpoints
    carry, are left out.

    Returns:
        The renamed tensors, and the keys that have no counterpart here, sorted.
    """
    kept = {
        name: value
        for name, value in state.items()
        if name not in PIXEL_STATISTICS and not name.startswith(DETECTRON2_ANCHORS)
    }
    return rename(kept, [*detectron2_fpn.RULES, *mask_rcnn.rules(state)])


def convert_torchvision_resnet(
    state: Mapping[str, Tensor], prefix: str = "backbone.bottom_up."
) -> tuple[dict[str, Tensor], list[str]]:
    """torchvision's ResNet classifier to our backbone; its last layer is left out.

    Such weights want RGB input and ``MODEL.RESNETS.STRIDE_IN_1X1`` False.

    Returns:
        The renamed tensors, each name starting with ``prefix``, and the unknown keys, sorted.
    """
    kept = {
        name: value for name, value in state.items() if name not in torchvision_resnet.CLASSIFIER
    }
    staged, unknown = rename(kept, torchvision_resnet.STAGES)
    renamed, unknown_blocks = rename(staged, torchvision_resnet.BLOCKS)
    converted = {prefix + name: value for name, value in renamed.items()}
    return converted, sorted(unknown + unknown_blocks)


def convert_resnet(
    state: Mapping[str, Tensor], source_format: str
) -> tuple[dict[str, Tensor], list[str]]:
    """A ResNet alone to our backbone: Detectron2's names, Caffe2's or torchvision's.

    Norms that have a scale and a shift only (MSRA's) get mean 0 and variance 1, as Detectron2 gives
    them.

    Returns:
        The renamed tensors, each name starting with "backbone.bottom_up.", and the unknown keys,
        sorted.
    """
    if source_format == formats.TORCHVISION_RESNET:
        return convert_torchvision_resnet(state, BOTTOM_UP)
    if source_format == formats.CAFFE2_BACKBONE:
        renamed, unknown = rename(state, caffe2_resnet.RULES)
        converted = {BOTTOM_UP + name: value for name, value in renamed.items()}
    else:
        prefixed = {BOTTOM_UP + name: value for name, value in state.items()}
        converted, unknown = rename(prefixed, detectron2_fpn.RULES)
        unknown = [name.removeprefix(BOTTOM_UP) for name in unknown]
    scales = {n: v for n, v in converted.items() if n.endswith(NORM_SCALE)}
    for name, scale in scales.items():
        norm = name.removesuffix(NORM_SCALE)
        converted.setdefault(f"{norm}.norm.running_mean", torch.zeros_like(scale))
        converted.setdefault(f"{norm}.norm.running_var", torch.ones_like(scale))
    return converted, unknown


def convert(checkpoint: Checkpoint, model: nn.Module) -> tuple[str, dict[str, Tensor], list[str]]:
    """A checkpoint of any format to the names of a model.

    Returns:
        The format, of ``formats.recognise`` unless the file says itself that it is ours; the
        renamed tensors; and the keys of the checkpoint that no rule knows, sorted.
    """
    state = checkpoint.state
    source_format = formats.COMICS if CONFIG in checkpoint.metadata else formats.recognise(state)
    timm_part = timm_model_of(model)
    if source_format == formats.COMICS:
        state, others = _part_of_joined(
            state, "face" if isinstance(model, FaceMethod) else "detector"
        )
        return source_format, _move(state, detector_prefix(model)), others
    if timm_part is not None and source_format in TIMM_FORMATS:
        return source_format, *_convert_timm(state, source_format, *timm_part)
    if source_format == formats.ADELAIDET:
        renamed, unknown = convert_adelaidet(state)
    elif source_format == formats.DETECTRON2:
        renamed, unknown = convert_detectron2(state)
    elif source_format in RESNET_FORMATS:
        renamed, unknown = convert_resnet(state, source_format)
    else:
        renamed, unknown = {}, sorted(state)
    prefix = detector_prefix(model)
    return source_format, {prefix + name: v for name, v in renamed.items()}, unknown


def _convert_timm(
    state: Mapping[str, Tensor], source_format: str, network: nn.Module, prefix: str
) -> tuple[dict[str, Tensor], list[str]]:
    """As ``convert``, for a timm model whose names have that prefix.

    Layers that it lacks within parts that it has are named like its own, so that
    ``check_architecture`` refuses them.
    """
    own = network.state_dict().keys()
    lost: list[str] = []
    if source_format == formats.EFFICIENTNET_PYTORCH:
        state, lost = efficientnet_pytorch.to_timm(state, own)
    renamed, unknown = rename_features(state, own)
    surplus = surplus_layers(unknown, own)
    renamed |= {name: state[name] for name in surplus}
    others = sorted({*lost, *unknown}.difference(surplus))
    return {prefix + name: value for name, value in renamed.items()}, others


def plan_loading(
    model: nn.Module, checkpoint: Checkpoint, *, backbone_only: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """What loading a checkpoint would do; the model is left as it is.

    Args:
        model: a detector, ``Comics`` around one, or a face method.
        checkpoint: of any format that ``formats`` lists.
        backbone_only: take the backbone of whatever detector it is, and nothing else.

    Returns:
        The tensors to load, by the model's names, and the report.

    Raises:
        ValueError: naming the file, if nothing fits, or not as a whole (``check_architecture``).
    """
    if isinstance(model, FaceForensics):
        raise ValueError(
            f"{checkpoint.path}: a joined model takes no weights: convert the detector and the "
            "face method, then join them by tools/combine_weights.py"
        )
    source_format, converted, unknown = convert(checkpoint, model)
    prefix = detector_prefix(model)
    if backbone_only:
        backbone = {n: v for n, v in converted.items() if n.startswith(f"{prefix}backbone.")}
        unknown, converted = unknown + sorted(converted.keys() - backbone.keys()), backbone
    report = match(model, converted)
    if not report.loaded:
        raise ValueError(
            f"{checkpoint.path}: none of its {len(checkpoint.state)} tensors is known to this "
            f"model (recognised as: {source_format})"
        )
    try:
        check_architecture(model, prefix, converted, report)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error
    require_finite({name: converted[name] for name in report.loaded}, checkpoint.path)
    report = replace(
        report,
        unexpected=sorted([*unknown, *report.unexpected]),
        source_format=source_format,
        warnings=_preprocessing_warnings(model, checkpoint, source_format),
    )
    return {name: converted[name] for name in report.loaded}, report


def load_foreign_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load a file of any known format as far as it fits; log, name by name, what does not.

    Formats: AdelaiDet's detectors, Detectron2's Mask R-CNN and ResNets, torchvision's ResNets,
    timm's models, EfficientNet-PyTorch's, and this project's files of another variant (with or
    without COMICS).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, carries code, or is of another architecture; then the model is
            as it was.
    """
    state, report = plan_loading(model, read_checkpoint_file(path))
    model.load_state_dict(state, strict=False)
    logger.info("%s: %d tensors (%s) loaded", path, len(state), report.source_format)
    for line in [*report.lines(), *report.warnings]:
        logger.warning("%s: %s", path, line)
    return report


def detector_prefix(model: nn.Module) -> str:
    """Of the names of a detector within a model: "detector." within ``Comics``, else ""."""
    return DETECTOR_PREFIX if isinstance(model, Comics) else ""


def timm_model_of(model: nn.Module) -> tuple[nn.Module, str] | None:
    """The timm model in a backbone or an encoder, with the prefix of its names; None without."""
    if isinstance(model, FaceMethod):
        encoder = model.encoder
        return (encoder.model, "encoder.model.") if isinstance(encoder, TimmEncoder) else None
    network = model.detector if isinstance(model, Comics) else model
    bottom_up = getattr(getattr(network, "backbone", None), "bottom_up", None)
    if not isinstance(bottom_up, TimmBackbone):
        return None
    return bottom_up.model, f"{detector_prefix(model)}{BOTTOM_UP}model."


def _part_of_joined(state: Mapping[str, Tensor], part: str) -> tuple[dict[str, Tensor], list[str]]:
    """Of a joined model's file (``FaceForensics``) one part, and the names of what is not of it.

    Any other state as it is, with nothing left over.
    """
    if not {temperature_name(name) for name in PARTS} <= state.keys():
        return dict(state), []
    own = {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")}
    return own, sorted(name for name in state if not name.startswith(f"{part}."))


def _move(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names of one of our models to those of its variant with, or without, COMICS."""
    has_prefix = any(name.startswith(DETECTOR_PREFIX) for name in state)
    if prefix and not has_prefix:
        return {prefix + name: value for name, value in state.items()}
    if has_prefix and not prefix:
        return {name.removeprefix(DETECTOR_PREFIX): value for name, value in state.items()}
    return dict(state)


def _preprocessing_warnings(
    model: nn.Module, checkpoint: Checkpoint, source_format: str
) -> list[str]:
    timm_part = timm_model_of(model) if source_format in TIMM_FORMATS else None
    cfg = _configuration(checkpoint)
    wanted = wanted_preprocessing(checkpoint, source_format, timm_part and timm_part[0], cfg)
    return [] if wanted is None else preprocessing_faults(model, wanted)


def _configuration(checkpoint: Checkpoint) -> CfgNode | None:
    """The configuration in a model file of ours; None in other files."""
    text = checkpoint.metadata.get(CONFIG)
    if text is None:
        return None
    try:
        return load_config_text(text)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{checkpoint.path}: its configuration is not readable: {error}"
        ) from error

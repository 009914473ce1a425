"""Foreign checkpoints to our names: AdelaiDet's FCOS and BlendMask, torchvision's ResNets.

Each format is a list of ``Rule`` (pattern, replacement); a key that no rule knows is reported, not
guessed. Files are read by ``torch.load(weights_only=True)``: they cannot run code.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

WRAPPERS = ("model", "state_dict")  # where training checkpoints keep the weights
PIXEL_STATISTICS = ("pixel_mean", "pixel_std")  # ours come from the configuration


@dataclass(frozen=True)
class Rule:
    """One renaming: a regular expression for whole keys, and its replacement."""

    pattern: str
    replacement: str


@dataclass(frozen=True)
class LoadReport:
    """What loading a foreign checkpoint left open.

    Attributes:
        missing: names of the model that the checkpoint lacks; they keep their initial values.
        unexpected: names of the checkpoint that the model lacks.
        misshapen: names whose shapes differ (another number of classes); they keep their values.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)


DETECTRON2_RESNET_FPN = (
    Rule(r"(backbone\.bottom_up\.stem)\.conv1\.norm\.(.+)", r"\1.norm.\2"),
    Rule(r"(backbone\.bottom_up\.stem)\.conv1\.(weight)", r"\1.conv.\2"),
    Rule(
        r"(backbone\.bottom_up\.res\d\.\d+\.(?:conv\d|shortcut))\.(norm\..+)",
        r"\1.\2",
    ),
    Rule(
        r"(backbone\.bottom_up\.res\d\.\d+\.(?:conv\d|shortcut))\.(weight)",
        r"\1.conv.\2",
    ),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.norm\.(.+)", r"backbone.\1.p\2.norm.\3"),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias)", r"backbone.\1.p\2.conv.\3"),
    Rule(r"backbone\.top_block\.(p\d)\.(weight|bias)", r"backbone.top.\1.\2"),
)

ADELAIDET_FCOS_PREDICTORS = (
    Rule(r"proposal_generator\.fcos_head\.cls_logits\.(weight|bias)", r"head.class_logits.\1"),
    Rule(r"proposal_generator\.fcos_head\.bbox_pred\.(weight|bias)", r"head.box_distances.\1"),
    Rule(r"proposal_generator\.fcos_head\.ctrness\.(weight|bias)", r"head.quality.\1"),
    Rule(r"proposal_generator\.fcos_head\.scales\.(\d+)\.scale", r"head.scales.\1"),
)

# AdelaiDet's name of each tower, and ours
FCOS_TOWERS = {"share_tower": "share_tower", "cls_tower": "class_tower", "bbox_tower": "box_tower"}

ADELAIDET_BASIS = (
    Rule(r"top_layer\.(weight|bias)", r"attention.\1"),
    Rule(r"basis_module\.refine\.(\d+)\.0\.(weight)", r"basis_module.refine.\1.conv.\2"),
    Rule(r"basis_module\.refine\.(\d+)\.1\.(.+)", r"basis_module.refine.\1.norm.\2"),
    Rule(r"basis_module\.seg_head\.0\.(weight)", r"basis_module.semantic.0.conv.\1"),
    Rule(r"basis_module\.seg_head\.1\.(.+)", r"basis_module.semantic.0.norm.\1"),
    Rule(r"basis_module\.seg_head\.3\.(weight)", r"basis_module.semantic.1.conv.\1"),
    Rule(r"basis_module\.seg_head\.4\.(.+)", r"basis_module.semantic.1.norm.\1"),
    Rule(r"basis_module\.seg_head\.6\.(weight|bias)", r"basis_module.semantic.2.\1"),
)

TORCHVISION_RESNET = (
    Rule(r"conv1\.(weight)", r"stem.conv.\1"),
    Rule(r"bn1\.(.+)", r"stem.norm.\1"),
    Rule(r"layer1\.(\d+)\.(.+)", r"res2.\1.\2"),
    Rule(r"layer2\.(\d+)\.(.+)", r"res3.\1.\2"),
    Rule(r"layer3\.(\d+)\.(.+)", r"res4.\1.\2"),
    Rule(r"layer4\.(\d+)\.(.+)", r"res5.\1.\2"),
)
TORCHVISION_BLOCK = (
    Rule(r"(res\d\.\d+\.conv\d)\.(weight)", r"\1.conv.\2"),
    Rule(r"(res\d\.\d+)\.bn(\d)\.(.+)", r"\1.conv\2.norm.\3"),
    Rule(r"(res\d\.\d+)\.downsample\.0\.(weight)", r"\1.shortcut.conv.\2"),
    Rule(r"(res\d\.\d+)\.downsample\.1\.(.+)", r"\1.shortcut.norm.\2"),
    Rule(r"(stem\..+)", r"\1"),
)
TORCHVISION_CLASSIFIER = ("fc.weight", "fc.bias")


def read_checkpoint(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a .pth file, unwrapped from "model" or "state_dict" if need be.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a PyTorch file, holds more than data, or no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {error}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path} holds no tensors by name")
    return state


def convert_adelaidet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """AdelaiDet's FCOS or BlendMask to our names.

    ``pixel_mean`` and ``pixel_std``, which old checkpoints carry, are left out.

    Returns:
        The renamed tensors, and the keys that have no counterpart here, sorted.
    """
    towers = [
        rule
        for theirs, ours in FCOS_TOWERS.items()
        for rule in _tower_rules(state, f"proposal_generator.fcos_head.{theirs}", f"head.{ours}")
    ]
    rules = (
        *DETECTRON2_RESNET_FPN,
        *ADELAIDET_FCOS_PREDICTORS,
        *towers,
        *ADELAIDET_BASIS,
        *_basis_tower_rules(state),
    )
    kept = {name: value for name, value in state.items() if name not in PIXEL_STATISTICS}
    return _rename(kept, rules)


def convert_torchvision_resnet(
    state: Mapping[str, Tensor], prefix: str = "backbone.bottom_up."
) -> tuple[dict[str, Tensor], list[str]]:
    """torchvision's ResNet classifier to our backbone; its last layer is left out.

    Such weights want RGB input and ``MODEL.RESNETS.STRIDE_IN_1X1`` False.

    Returns:
        The renamed tensors, each name starting with ``prefix``, and the unknown keys, sorted.
    """
    kept = {name: value for name, value in state.items() if name not in TORCHVISION_CLASSIFIER}
    staged, unknown = _rename(kept, TORCHVISION_RESNET)
    renamed, unknown_blocks = _rename(staged, TORCHVISION_BLOCK)
    converted = {prefix + name: value for name, value in renamed.items()}
    return converted, sorted(unknown + unknown_blocks)


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load what fits by name and shape, and tell what does not.

    Counters of batch norms are not reported: frozen norms have none.
    """
    own = model.state_dict()
    misshapen = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    fitting = {n: v for n, v in state.items() if n in own and n not in misshapen}
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        missing=sorted(n for n in own.keys() - state.keys() if not _is_counter(n)),
        unexpected=sorted(n for n in state.keys() - own.keys() if not _is_counter(n)),
        misshapen=sorted(misshapen),
    )


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _rename(
    state: Mapping[str, Tensor], rules: Sequence[Rule]
) -> tuple[dict[str, Tensor], list[str]]:
    """Apply to each key the first rule whose pattern matches all of it."""
    compiled = [(re.compile(rule.pattern), rule.replacement) for rule in rules]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in state.items():
        for pattern, replacement in compiled:
            match = pattern.fullmatch(name)
            if match:
                renamed[match.expand(replacement)] = value
                break
        else:
            unknown.append(name)
    return renamed, sorted(unknown)


def _tower_rules(state: Mapping[str, Tensor], theirs: str, ours: str) -> list[Rule]:
    """Rules for a tower that is a flat list: conv, norm, ReLU, conv, ...; or without norms."""
    present = {
        int(match[1])
        for match in (re.match(re.escape(theirs) + r"\.(\d+)\.", name) for name in state)
        if match
    }
    step = 3 if 1 in present else 2  # a norm follows the first convolution, or only a ReLU
    rules = []
    for index in sorted(present):
        part = {0: "conv", 1: "norm"}.get(index % step)
        if part is not None:
            pattern = re.escape(f"{theirs}.{index}.") + r"(.+)"
            rules.append(Rule(pattern, rf"{ours}.{index // step}.{part}.\1"))
    return rules


def _basis_tower_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """Rules for the bases' tower: N blocks, an enlargement, one more block, the predictor."""
    final = [
        int(match[1])
        for match in (re.fullmatch(r"basis_module\.tower\.(\d+)\.weight", name) for name in state)
        if match
    ]
    if not final:
        return []
    predictor = final[0]
    last = predictor - 1
    return [
        Rule(rf"basis_module\.tower\.{predictor}\.(weight|bias)", r"basis_module.bases.\1"),
        Rule(rf"basis_module\.tower\.{last}\.0\.(weight)", r"basis_module.last.conv.\1"),
        Rule(rf"basis_module\.tower\.{last}\.1\.(.+)", r"basis_module.last.norm.\1"),
        Rule(r"basis_module\.tower\.(\d+)\.0\.(weight)", r"basis_module.tower.\1.conv.\2"),
        Rule(r"basis_module\.tower\.(\d+)\.1\.(.+)", r"basis_module.tower.\1.norm.\2"),
    ]

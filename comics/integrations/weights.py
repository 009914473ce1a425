"""Foreign checkpoints to our names: AdelaiDet's FCOS and BlendMask, torchvision's ResNets.

The tables of names are in ``comics.integrations.key_maps``; a key that no rule knows is reported,
not guessed. Files are read by ``torch.load(weights_only=True)``: they cannot run code.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from comics.integrations.key_maps import blendmask, detectron2_fpn, fcos, torchvision_resnet
from comics.integrations.key_maps.rules import rename

WRAPPERS = ("model", "state_dict")  # where training checkpoints keep the weights
ADELAIDET = (fcos, blendmask)  # modules with ``rules(state)``; their keys do not overlap
PIXEL_STATISTICS = ("pixel_mean", "pixel_std")  # ours come from the configuration


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
    rules = [*detectron2_fpn.RULES, *(r for part in ADELAIDET for r in part.rules(state))]
    kept = {name: value for name, value in state.items() if name not in PIXEL_STATISTICS}
    return rename(kept, rules)


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

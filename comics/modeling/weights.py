"""Model files: weights in safetensors, with the configuration that builds the model inside.

A file holds tensors and text, never code. Foreign files are converted by
``comics.integrations.weights`` first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from comics.config import CfgNode
from comics.files import atomic_path, file_sha256
from comics.modeling.state_names import without_wrappers

SHOWN_NAMES = 10  # of tensors in a message


@dataclass(frozen=True)
class WeightsFile:
    """The content of a model file.

    Attributes:
        state: parameter or buffer name -> tensor, on the CPU.
        metadata: text by name: "config" (YAML), "version", "git_revision", "iteration", ...
        sha256: of the whole file, to name the model that gave a verdict.
    """

    state: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def save_weights(
    path: str | os.PathLike,
    state: Mapping[str, Tensor],
    cfg: CfgNode | str,
    metadata: Mapping[str, str],
) -> None:
    """Write a model file; a crash leaves either the old file or the new one, never half of it.

    Args:
        path: of it.
        state: tensors by name.
        cfg: the model's configuration, or its text, which is kept as it is.
        metadata: more text by name.

    Raises:
        ValueError: for values that are not finite, naming their tensors.
        OSError: if it cannot be written.
    """
    path = Path(path)
    require_finite(state, path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    text = {**metadata, "config": cfg if isinstance(cfg, str) else cfg.dump()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=text)


def read_weights(path: str | os.PathLike) -> WeightsFile:
    """Read a model file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not safetensors, is truncated, carries no configuration, or holds
            values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if "config" not in metadata:
        raise ValueError(f"{path} carries no configuration; convert it with convert_weights.py")
    state = without_wrappers(state)
    require_finite(state, path)
    return WeightsFile(state, metadata, file_sha256(path))


def require_finite(state: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    """Refuse weights with a NaN or an infinity, in parameters and buffers alike.

    With such weights a detector finds no face in any picture, which looks like a verdict. Numbers
    that a float32, which every model computes with, cannot hold are infinite too.

    Raises:
        ValueError: naming the source and the tensors.
    """
    faulty = sorted(name for name, tensor in state.items() if not _is_finite(tensor))
    if faulty:
        more = f" and {len(faulty) - SHOWN_NAMES} more" if len(faulty) > SHOWN_NAMES else ""
        raise ValueError(
            f"{os.fspath(source)} cannot be used: {len(faulty)} of {len(state)} tensors hold "
            f"values that are not finite: {', '.join(faulty[:SHOWN_NAMES])}{more}"
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.float()).all())


def halve_filters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state whose filters are float16, for files of half the size; loading makes them float32.

    Vectors (biases, scales and statistics of norms) stay: they are small, and a variance may be
    beyond float16's range.

    Raises:
        ValueError: naming a filter with a value beyond float16's range.
    """
    halved = {}
    for name, tensor in state.items():
        filters = tensor.is_floating_point() and tensor.ndim > 1
        halved[name] = tensor.half() if filters else tensor
        if filters and not torch.isfinite(halved[name]).all():
            raise ValueError(f"{name} has values that float16 cannot hold")
    return halved


def load_state(model: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit the model exactly.

    Raises:
        ValueError: as ``require_fit`` and ``require_finite``; the model is left unchanged.
    """
    require_fit(model.state_dict(), state, source)
    require_finite(state, source)
    model.load_state_dict(state)


def require_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, what: str = "model"
) -> None:
    """Refuse weights that are not, name by name and shape by shape, those that are wanted.

    Args:
        own: the wanted ones, by name.
        state: those of the source.
        source: of the weights; begins the message.
        what: that they are for.

    Raises:
        ValueError: listing missing, unexpected and misshapen names; of very many the first.
    """
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    misshapen = [
        f"{name}: file {tuple(state[name].shape)}, {what} {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if missing or unexpected or misshapen:
        raise ValueError(
            f"{source} does not fit this {what}: missing {_few(missing)}, unexpected "
            f"{_few(unexpected)}, of another shape {_few(misshapen)}"
        )


def _few(names: Collection[str]) -> str:
    """The names in order, or the first of very many and how many more there are."""
    rest = len(names) - SHOWN_NAMES
    return f"{sorted(names)[:SHOWN_NAMES]}" + (f" and {rest} more" if rest > 0 else "")

"""Reading weights of any origin: PyTorch's files, pickles of arrays, safetensors.

No file can run code: PyTorch's are read by ``torch.load(weights_only=True)``, other pickles by
``comics.integrations.safe_pickle``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from comics.integrations.safe_pickle import read_pickle
from comics.modeling.state_names import unwrap_container, without_wrappers

AUTHOR_KEY = "__author__"  # of Detectron2's model zoo
CAFFE2_MOMENTUM = "_momentum"  # end of names of the optimiser's state, in Detectron's files
# How a file begins: a zip archive, and PyTorch's own format before 1.6 (a pickled number)
TORCH_ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: of the file.
        state: name -> tensor, on the CPU.
        author: who made it, as Detectron2's model zoo writes ("torchvision", "Caffe2"); "" where
            the file does not say.
        metadata: text by name of a .safetensors file; "config" of a model file of ours.
    """

    path: str
    state: dict[str, Tensor]
    author: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint_file(path: str | os.PathLike) -> Checkpoint:
    """The tensors of a file, without what training programs wrap them in (``state_names``).

    .safetensors is known by its name, PyTorch's files by how they begin; anything else is taken
    for a pickle of arrays.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, holds more than data, or no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(len(TORCH_LEGACY))
    is_torch = start.startswith((TORCH_ZIP, TORCH_LEGACY))
    content = _read_torch(path) if is_torch else read_pickle(path)
    author = content.get(AUTHOR_KEY, "") if isinstance(content, Mapping) else ""
    content = unwrap_container(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name")
    state = _tensors(content, path)
    return Checkpoint(str(path), state, author if isinstance(author, str) else "")


def read_checkpoint(path: str | os.PathLike) -> dict[str, Tensor]:
    """``read_checkpoint_file(path).state``; raises as that."""
    return read_checkpoint_file(path).state


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # PyTorch does not check the CRCs that it writes
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"bad checksum in {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage surfaces as many types: zip, zlib, pickle, runtime errors
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {error}") from error


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return Checkpoint(str(path), _tensors(state, path), metadata=metadata)


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Tensors and arrays of a mapping by name, as tensors; the optimiser's state is left out."""
    state = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
        if isinstance(name, str)
        and isinstance(value, Tensor | np.ndarray)
        and not name.endswith(CAFFE2_MOMENTUM)
    }
    if not state:
        raise ValueError(f"{path} holds no tensors by name")
    return without_wrappers(state)

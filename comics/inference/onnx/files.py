"""The ONNX files of a model: what they say of themselves, and how they are read.

One file is the model: its graph, and in its metadata (text by name) all else that is needed. Graphs
of further networks lie beside it, and it states their SHA-256:

    model.onnx            detector, or face method
    model.box_head.onnx   of a two-stage detector; so model.mask_head.onnx
    model.face.onnx       of ``FaceForensics``

Metadata of every file::

    comics_format       "1"
    config              the model's configuration, YAML
    version             of this package
    weights             name of the model file that it was made from, and
    weights_sha256      that file's SHA-256
    weights_metadata    JSON: what that file says of itself
    class_names         JSON: of labels 0, 1

Of the main file also::

    score_threshold, fake_threshold   defaults, as in the configuration
    temperature         divides the logit of P(fake)
    temperatures        JSON: of ``FaceForensics``, of each part's P(fake)
    parts               JSON: name of a further graph -> SHA-256 of its file
    selection_weights   weights that are used outside the graph: safetensors in base64
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from comics.config import CfgNode, load_config_text
from comics.files import file_sha256
from comics.modeling.weights import WeightsFile

try:
    import onnxruntime
except ImportError as error:  # an extra of the package
    raise ImportError(
        'ONNX models need onnxruntime: pip install "comics-forensics[onnx]"', name="onnxruntime"
    ) from error

FORMAT_KEY, FORMAT = "comics_format", "1"
SUFFIX = ".onnx"
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
QUIET = 3  # onnxruntime's log level "error"
# What an exported model knows of its origin, in the metadata that outputs carry
EXPORTED_FROM, EXPORTED_FROM_SHA256 = "exported_from", "exported_from_sha256"


def providers_for(device: str) -> list[tuple[str, dict]]:
    """ONNX Runtime's providers, first choice first.

    Args:
        device: "auto" is CUDA where ONNX Runtime has it, else the CPU; or "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: for another device, or CUDA where it is absent.
    """
    has_cuda = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return [(CPU_PROVIDER, {})]
    if kind != "cuda" or (number and not number.isdigit()):
        raise ValueError(f"ONNX models run on auto, cpu, cuda or cuda:<number>, not {device!r}")
    if not has_cuda:
        raise ValueError(
            f"device {device!r} is asked for, but this ONNX Runtime has no CUDA; the package "
            "onnxruntime-gpu has"
        )
    return [(CUDA_PROVIDER, {"device_id": number or "0"}), (CPU_PROVIDER, {})]


class Session:
    """A graph, ready to run on tensors.

    Args:
        path: of the ONNX file.
        providers: see ``providers_for``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no ONNX file that can run here.
    """

    def __init__(self, path: str | os.PathLike, providers: Sequence[tuple[str, dict]]) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no model file at {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as the rest of the program
        options.log_severity_level = QUIET
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=list(providers)
            )
        # Each fault has a class of its own, not all of which are public
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{path} is not a readable ONNX file: {first[0]}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.providers: list[str] = self._session.get_providers()
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs, on the CPU, for its inputs, in its order."""
        feeds = {
            name: tensor.detach().cpu().contiguous().numpy()
            for name, tensor in zip(self.inputs, inputs, strict=True)
        }
        return tuple(torch.from_numpy(found) for found in self._session.run(None, feeds))


@dataclass(frozen=True)
class OnnxFile:
    """A file of this package, opened.

    Attributes:
        path: where it is.
        session: its graph.
        cfg: configuration of its model.
        sha256: of the file.
        metadata: what the file that it was made from says of itself, and that file's name.
    """

    path: Path
    session: Session
    cfg: CfgNode
    sha256: str
    metadata: dict[str, str]

    def described(self) -> WeightsFile:
        """As a model file without tensors."""
        return WeightsFile({}, self.metadata, self.sha256)

    def json(self, key: str) -> dict:
        """The metadata of that name; {} where there is none."""
        return json.loads(self.session.metadata.get(key, "{}"))

    def selection_weights(self) -> dict[str, Tensor]:
        """Weights that are used outside the graph, by name."""
        text = self.session.metadata.get("selection_weights", "")
        try:
            return load(base64.b64decode(text, validate=True)) if text else {}
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{self.path}: its selection weights are broken: {error}") from error

    def part(self, name: str, providers: Sequence[tuple[str, dict]]) -> Session:
        """The further graph of that name.

        Raises:
            FileNotFoundError, ValueError: if its file is absent, broken, or of another export.
        """
        path = part_path(self.path, name)
        session = Session(path, providers)
        if file_sha256(path) != self.json("parts").get(name):
            raise ValueError(
                f"{path} does not belong to {self.path}: they are of different exports; copy all "
                "files of one export, or export again"
            )
        return session


def read_onnx(path: str | os.PathLike, providers: Sequence[tuple[str, dict]]) -> OnnxFile:
    """Open the main file of a model.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, of another program, or of a later version of this one.
    """
    session = Session(path, providers)
    metadata = session.metadata
    if FORMAT_KEY not in metadata:
        raise ValueError(
            f"{path} is an ONNX file, but not of this program: it does not say how its model is "
            "configured; make one from a model file by tools/export_onnx.py"
        )
    if metadata[FORMAT_KEY] != FORMAT:
        raise ValueError(
            f"{path} has format {metadata[FORMAT_KEY]} of version {metadata.get('version')}; this "
            f"version reads format {FORMAT}"
        )
    own = json.loads(metadata["weights_metadata"])
    own |= {EXPORTED_FROM: metadata["weights"], EXPORTED_FROM_SHA256: metadata["weights_sha256"]}
    cfg = load_config_text(metadata["config"])
    return OnnxFile(Path(path), session, cfg, file_sha256(path), own)


def part_path(path: Path, name: str) -> Path:
    """Where the further graph of that name lies: model.onnx -> model.<name>.onnx."""
    return path.with_name(f"{path.stem}.{name}{SUFFIX}")


def encode_weights(state: Mapping[str, Tensor]) -> str:
    """Tensors as text, for ``selection_weights``."""
    return base64.b64encode(save({k: v.contiguous() for k, v in state.items()})).decode("ascii")

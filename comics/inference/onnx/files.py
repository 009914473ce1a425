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
    pyramid             JSON: "strides", "out_channels", "size_divisibility" of the feature pyramid,
                        so that the selection can be built without the network that makes it
    selection_weights   weights that are used outside the graph: safetensors in base64
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from comics.config import CfgNode, load_config_text
from comics.files import file_sha256
from comics.inference.onnx.sessions import Opener, Session
from comics.modeling.weights import WeightsFile

FORMAT_KEY, FORMAT = "comics_format", "1"
VERSION_KEY = "version"
TOLERANCE = 1e-4  # largest difference from PyTorch that is taken
SUFFIX = ".onnx"
# What an exported model knows of its origin, in the metadata that outputs carry
EXPORTED_FROM, EXPORTED_FROM_SHA256 = "exported_from", "exported_from_sha256"


@dataclass(frozen=True)
class OnnxFile:
    """A file of this package, opened.

    Attributes:
        path: where it is.
        session: its graph.
        opener: what opened it, and opens its further graphs.
        cfg: configuration of its model.
        sha256: of the file.
        metadata: what the file that it was made from says of itself, and that file's name.
    """

    path: Path
    session: Session
    opener: Opener
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

    def part(self, name: str) -> Session:
        """The further graph of that name.

        Raises:
            FileNotFoundError, ValueError: if its file is absent, broken, or of another export.
        """
        path = part_path(self.path, name)
        session = self.opener(path)
        if file_sha256(path) != self.json("parts").get(name):
            raise ValueError(
                f"{path} does not belong to {self.path}: they are of different exports; copy all "
                "files of one export, or export again"
            )
        return session


def read_onnx(path: str | os.PathLike, opener: Opener) -> OnnxFile:
    """Open the main file of a model.

    Args:
        path: of the file.
        opener: see ``comics.inference.onnx.sessions``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, of another program, or of a later version of this one.
    """
    session = opener(path)
    metadata = session.metadata
    if FORMAT_KEY not in metadata:
        raise ValueError(
            f"{path} is an ONNX file, but not of this program: it does not say how its model is "
            "configured; make one from a model file by tools/export_onnx.py"
        )
    if metadata[FORMAT_KEY] != FORMAT:
        raise ValueError(
            f"{path} has format {metadata[FORMAT_KEY]} of version {metadata.get(VERSION_KEY)}; "
            f"this version reads format {FORMAT}"
        )
    own = json.loads(metadata["weights_metadata"])
    own |= {EXPORTED_FROM: metadata["weights"], EXPORTED_FROM_SHA256: metadata["weights_sha256"]}
    cfg = load_config_text(metadata["config"])
    return OnnxFile(Path(path), session, opener, cfg, file_sha256(path), own)


def part_path(path: Path, name: str) -> Path:
    """Where the further graph of that name lies: model.onnx -> model.<name>.onnx."""
    return path.with_name(f"{path.stem}.{name}{SUFFIX}")


def encode_weights(state: Mapping[str, Tensor]) -> str:
    """Tensors as text, for ``selection_weights``."""
    return base64.b64encode(save({k: v.contiguous() for k, v in state.items()})).decode("ascii")

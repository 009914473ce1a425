"""``Predictor`` with ONNX Runtime or OpenVINO: the networks run there, all else is the same code.

Results agree with PyTorch's to the accuracy that ``comics export`` has verified.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from comics.inference.doubt import Familiarity
from comics.inference.model_files import LoadedModel, describe_origin, require_detector
from comics.inference.onnx.files import (
    EXPORTED_FROM,
    EXPORTED_FROM_SHA256,
    SUFFIX,
    OnnxFile,
    read_onnx,
)
from comics.inference.onnx.models import OnnxFaceMethod, face_crop_size, make_detector
from comics.inference.onnx.sessions import Opener, opener, version_of
from comics.inference.predictor import Predictor
from comics.inference.runtimes import ONNX_RUNTIME
from comics.modeling.face_forensics import (
    FACE_FORENSICS,
    PARTS,
    FaceForensics,
    temperature_name,
)
from comics.modeling.faces.base import FaceMethod
from comics.pipeline import combined_config, combined_metadata, temperature_of
from comics.structures import Faces

FACE_PART = "face"  # name of the further graph of ``FaceForensics``


class LoadedFile(NamedTuple):
    """A file of ``comics export``, and the model that its graphs run."""

    file: OnnxFile
    model: LoadedModel


def load_file(
    path: str | os.PathLike, opens: Opener, face_weights: str | os.PathLike | None = None
) -> LoadedFile:
    """Open a file and its further graphs; arguments and errors as ``OnnxPredictor.from_file``."""
    file = read_onnx(path, opens)
    return LoadedFile(file, _load(file, face_weights, opens))


class OnnxPredictor(Predictor):
    """Finds the faces of images and says which are forged; see ``Predictor``.

    It has no gradients; heat maps are PyTorch's, of the model file that it was made from, if given.
    """

    _runtime: str = ONNX_RUNTIME
    _place: str = "cpu"  # of the session
    _source: str | os.PathLike | None = None

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        device: str = "auto",
        score_threshold: float | None = None,
        fake_threshold: float | None = None,
        face_weights: str | os.PathLike | None = None,
        tiling: str | None = None,
        amp: bool = False,
        compiled: bool = False,
        source: str | os.PathLike | None = None,
        runtime: str = ONNX_RUNTIME,
    ) -> Self:
        """Load an ONNX file of ``comics export``.

        Args:
            path: of a detector, or ``FaceForensics``.
            device: "auto" is CUDA where ONNX Runtime has it; "cpu", "cuda", "cuda:1".
            score_threshold, fake_threshold, tiling: as in ``Predictor.from_file``.
            face_weights: an ONNX file of a face method.
            amp, compiled: refused.
            source: the model file that it was made from: results name that one.
            runtime: what runs it, see ``comics.inference.onnx.sessions.opener``.

        Raises:
            FileNotFoundError, ValueError: if a file is absent, broken or of another program, an
                option is not the runtime's, or the device is not there.
            ImportError: if the runtime is not installed.
        """
        if amp or compiled:
            option = "mixed precision" if amp else "compilation"
            raise ValueError(f"{option} is PyTorch's; {path} is an ONNX file, do without")
        found = load_file(path, opener(runtime, device), face_weights)
        return cls.of_loaded(
            found,
            score_threshold,
            fake_threshold,
            tiling=tiling,
            source=source,
            runtime=runtime,
        )

    @classmethod
    def of_loaded(
        cls,
        found: LoadedFile,
        score_threshold: float | None = None,
        fake_threshold: float | None = None,
        *,
        tiling: str | None = None,
        source: str | os.PathLike | None = None,
        runtime: str = ONNX_RUNTIME,
    ) -> Self:
        """Of a file that is open already; arguments and errors as ``from_file``."""
        file, loaded = found
        if source is not None:
            loaded = replace(loaded, origin=_origin_of(source, file))
        place = torch.device("cpu")  # of the tensors that a session takes and gives
        predictor = cls.of_model(loaded, place, score_threshold, fake_threshold, tiling)
        predictor._runtime, predictor._place = runtime, file.session.device
        predictor._source = source
        return predictor

    @property
    def has_heat_maps(self) -> bool:
        """Where the model file is known, and looks at faces."""
        return self._source is not None and self.looks_at_faces

    @property
    def provenance(self) -> dict[str, object]:
        """As of ``Predictor``, with the runtime's name and version."""
        return super().provenance | version_of(self._runtime) | {"device": self._place}

    def heat_maps(self, image: np.ndarray | Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
        """As of ``Predictor``; ``ValueError`` where the model file is not known."""
        if self._source is None:
            raise ValueError(
                "heat maps need gradients, which an ONNX model does not have: use the model file "
                "(.safetensors) that it was made from"
            )
        return self._in_pytorch.heat_maps(image, faces)

    @cached_property
    def _in_pytorch(self) -> Predictor:
        assert self._source is not None
        return Predictor.from_file(self._source, "cpu")


def _origin_of(source: str | os.PathLike, file: OnnxFile) -> dict[str, object]:
    """What results say of the model file that an ONNX file was made from."""
    made_from = (EXPORTED_FROM, EXPORTED_FROM_SHA256)
    metadata = {k: v for k, v in file.metadata.items() if k not in made_from}
    return describe_origin(source, file.cfg, metadata, file.metadata[EXPORTED_FROM_SHA256])


def _load(file: OnnxFile, face_weights: str | os.PathLike | None, opens: Opener) -> LoadedModel:
    require_detector(file.path, file.cfg)
    name = file.cfg.MODEL.META_ARCHITECTURE
    if face_weights is not None:
        return _joined(file, face_weights, opens)
    origin = describe_origin(file.path, file.cfg, file.metadata, file.sha256)
    temperature = temperature_of(file.metadata, file.path)
    familiarity = Familiarity.from_metadata(file.metadata, file.path)
    if name != FACE_FORENSICS:
        detector = make_detector(file, name)
        return LoadedModel(detector, file.cfg, origin, temperature, familiarity)
    detector = make_detector(file, file.cfg.MODEL.FACE.DETECTOR)
    face = OnnxFaceMethod(file.part(FACE_PART), face_crop_size(file.cfg))
    model = FaceForensics.from_config(file.cfg, detector, cast(FaceMethod, face))
    _set_temperatures(model, file.json("temperatures"))
    return LoadedModel(model, file.cfg, origin, temperature, familiarity)


def _joined(file: OnnxFile, face_weights: str | os.PathLike, opens: Opener) -> LoadedModel:
    """A detector's file and a face method's."""
    if Path(face_weights).suffix != SUFFIX:
        raise ValueError(
            f"{file.path} is an ONNX model, so the face method must be one: make it from "
            f"{face_weights} by tools/export_onnx.py"
        )
    other = read_onnx(face_weights, opens)
    files, paths = (file, other), (file.path, other.path)
    cfg = combined_config(file.cfg, other.cfg, paths=paths)
    detector = make_detector(file, cfg.MODEL.FACE.DETECTOR)
    face = OnnxFaceMethod(other.session, face_crop_size(cfg))
    model = FaceForensics.from_config(cfg, detector, cast(FaceMethod, face))
    temperatures = {
        part: temperature_of(one.metadata, one.path) for part, one in zip(PARTS, files, strict=True)
    }
    _set_temperatures(model, temperatures)
    metadata = combined_metadata(cfg, paths, [one.described() for one in files])
    origin = describe_origin(file.path, cfg, metadata, file.sha256)
    return LoadedModel(model, cfg, origin, 1.0)


def _set_temperatures(model: FaceForensics, temperatures: dict[str, float]) -> None:
    for part, value in temperatures.items():
        getattr(model, temperature_name(part)).fill_(value)

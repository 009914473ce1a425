"""A detector's model file and a face method's, joined: the whole pipeline as one model.

``FaceForensics`` (``comics.modeling.face_forensics``) is what computes; here are the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

import comics
from comics.config import CfgNode, get_cfg, load_config_text
from comics.modeling.build import FAST_LAYOUT, build_model
from comics.modeling.face_forensics import (
    FACE_FORENSICS,
    FACE_METHOD,
    PARTS,
    FaceForensics,
    temperature_name,
)
from comics.modeling.weights import WeightsFile, load_state, read_weights

TEMPERATURE_KEY = "temperature"  # of a calibrated model file's metadata


@dataclass(frozen=True)
class Combination:
    """The content of a model file of ``FaceForensics``.

    Attributes:
        cfg: both parts' configuration, frozen.
        state: parameter or buffer name -> tensor.
        metadata: text by name; of each part (``PARTS``) its model, file name, SHA-256 and what its
            own file says of its origin.
    """

    cfg: CfgNode
    state: dict[str, Tensor]
    metadata: dict[str, str]


def combine_files(
    detector: str | os.PathLike,
    face: str | os.PathLike,
    fusion: str | None = None,
    mirror: bool | None = None,
) -> Combination:
    """Join two model files; whether they make a model is seen by ``build_combination``.

    Of a file that is joined already its own part is taken, without the thresholds of the pair.

    Args:
        detector, face: model files (.safetensors).
        fusion, mirror: MODEL.FACE.FUSION and .MIRROR; None: the face method's.

    Raises:
        FileNotFoundError, ValueError: if a file is absent or broken, or is not of that part.
    """
    paths = [Path(detector), Path(face)]
    found = [_read_part(path, part) for path, part in zip(paths, PARTS, strict=True)]
    files, configs = [file for file, _ in found], [cfg for _, cfg in found]
    cfg = combined_config(*configs, paths=paths, fusion=fusion, mirror=mirror)
    state = {
        f"{part}.{name}": tensor
        for part, file in zip(PARTS, files, strict=True)
        for name, tensor in file.state.items()
    }
    for part, path, file in zip(PARTS, paths, files, strict=True):
        state[temperature_name(part)] = torch.tensor(temperature_of(file.metadata, path))
    return Combination(cfg, state, combined_metadata(cfg, paths, files))


def _read_part(path: Path, part: str) -> tuple[WeightsFile, CfgNode]:
    """A model file, and its configuration; of a joined one, its part."""
    file = read_weights(path)
    cfg = load_config_text(file.metadata["config"])
    if cfg.MODEL.META_ARCHITECTURE != FACE_FORENSICS:
        return file, cfg
    own = _part_of(file, cfg, part)
    return WeightsFile(own.state, own.metadata, file.sha256), own.cfg


def separate_file(path: str | os.PathLike, part: str) -> Combination:
    """One part of a joined model file, as the content of a model file of its own.

    What filters lost when they were stored as float16 stays lost. The calibration is the part's
    own, not that of the pair, and so the thresholds of P(fake) are those of a fresh configuration.

    Args:
        path: a model file of ``FaceForensics``.
        part: "detector" or "face".

    Raises:
        FileNotFoundError, ValueError: if it is absent, broken or of another kind.
    """
    file = read_weights(path)
    cfg = load_config_text(file.metadata["config"])
    if cfg.MODEL.META_ARCHITECTURE != FACE_FORENSICS:
        raise ValueError(f"{path} holds a {cfg.MODEL.META_ARCHITECTURE}: nothing to separate")
    return _part_of(file, cfg, part)


def _part_of(file: WeightsFile, cfg: CfgNode, part: str) -> Combination:
    """See ``separate_file``; of a file that has been read, with its configuration."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = FACE_METHOD if part == "face" else cfg.MODEL.FACE.DETECTOR
    fresh = get_cfg().TEST
    cfg.TEST.FAKE_THRESH, cfg.TEST.UNCLEAR = fresh.FAKE_THRESH, fresh.UNCLEAR
    cfg.freeze()
    begin = f"{part}."
    state = {
        name.removeprefix(begin): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in file.state.items()
        if name.startswith(begin)
    }
    own = f"{part}_"
    metadata = {k.removeprefix(own): v for k, v in file.metadata.items() if k.startswith(own)}
    metadata["separated_from_sha256"] = file.sha256
    temperature = file.state[temperature_name(part)].item()
    if temperature != 1:
        metadata[TEMPERATURE_KEY] = repr(temperature)
    return Combination(cfg, state, metadata)


def build_combination(
    combination: Combination, device: torch.device | str = "cpu"
) -> FaceForensics:
    """The model, in evaluation mode.

    Raises:
        ValueError: if a state does not fit its configuration, or a setting is unusable.
    """
    model = build_model(combination.cfg)
    load_state(model, combination.state, "the joined model files")
    placed = model.to(device).to(memory_format=FAST_LAYOUT).eval()
    return cast(FaceForensics, placed)


def combined_config(
    detector: CfgNode,
    face: CfgNode,
    *,
    paths: Sequence[str | os.PathLike] = ("the first file", "the second file"),
    fusion: str | None = None,
    mirror: bool | None = None,
) -> CfgNode:
    """The detector's configuration with the face method's parts in it; frozen.

    Args:
        detector, face: configurations of two model files.
        paths: of those files, for messages.
        fusion, mirror: MODEL.FACE.FUSION and .MIRROR; None: as in ``face``.

    Raises:
        ValueError: unless the one is a detector's and the other a face method's.
    """
    kinds = [cfg.MODEL.META_ARCHITECTURE for cfg in (detector, face)]
    if kinds[0] in (FACE_METHOD, FACE_FORENSICS):
        raise ValueError(f"{paths[0]} holds a {kinds[0]}; a detector is needed here")
    if kinds[1] != FACE_METHOD:
        raise ValueError(f"{paths[1]} holds a {kinds[1]}; a face method is needed here")
    cfg, face = detector.clone(), face.clone()
    for one in (cfg, face):
        one.defrost()
    cfg.MODEL.FACE, cfg.INPUT.FACE = face.MODEL.FACE, face.INPUT.FACE
    cfg.MODEL.FACE.DETECTOR = kinds[0]
    if fusion is not None:
        cfg.MODEL.FACE.FUSION = fusion
    if mirror is not None:
        cfg.MODEL.FACE.MIRROR = mirror
    cfg.MODEL.META_ARCHITECTURE = FACE_FORENSICS
    cfg.freeze()
    return cfg


def combined_metadata(
    cfg: CfgNode, paths: Sequence[Path], files: Sequence[WeightsFile]
) -> dict[str, str]:
    """Of each part its model, file name, SHA-256 and what its file says of itself.

    Args:
        cfg: as ``combined_config`` gives it.
        paths, files: of the detector and of the face method.
    """
    metadata = {"version": comics.__version__}
    models = (cfg.MODEL.FACE.DETECTOR, cfg.MODEL.FACE.METHOD)
    for part, path, file, model in zip(PARTS, paths, files, models, strict=True):
        metadata |= _described(part, path, file, model)
    return metadata


def describe_parts(cfg: CfgNode, metadata: Mapping[str, str]) -> dict[str, object]:
    """What a results file says of the two parts and how they are joined; JSON."""
    parts = {
        part: {
            name.removeprefix(f"{part}_"): text
            for name, text in sorted(metadata.items())
            if name.startswith(f"{part}_")
        }
        for part in PARTS
    }
    return {
        **parts,
        "fusion": cfg.MODEL.FACE.FUSION,
        "crop_margin": cfg.INPUT.FACE.MARGIN,
    }


def _described(part: str, path: Path, file: WeightsFile, model: str) -> dict[str, str]:
    own = {"model": model, "weights": path.name, "weights_sha256": file.sha256}
    kept = {k: v for k, v in file.metadata.items() if k != "config"}
    return {f"{part}_{name}": text for name, text in {**kept, **own}.items()}


def temperature_of(metadata: Mapping[str, str], path: str | os.PathLike) -> float:
    """The calibration temperature that a model file states; 1 where it states none.

    Raises:
        ValueError: naming the file, if it is no positive number.
    """
    text = metadata.get(TEMPERATURE_KEY, "1")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{path}: the temperature {text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"{path}: the temperature must be positive, got {text}")
    return value

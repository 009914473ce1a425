"""From a model file to ONNX files that give the same results: see ``comics.inference.onnx.files``.

Every graph is run and compared with PyTorch before its file gets its name.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import Tensor, nn

import comics
from comics.config import CfgNode
from comics.files import file_sha256
from comics.inference.onnx.files import (
    FORMAT,
    FORMAT_KEY,
    SUFFIX,
    TOLERANCE,
    VERSION_KEY,
    encode_weights,
    part_path,
)
from comics.inference.onnx.graphs import Graph, detector_graphs, face_graph, trace
from comics.inference.onnx.models import describe_pyramid, selection_state
from comics.inference.onnx.predictor import FACE_PART
from comics.inference.onnx.sessions import Opener, Session, opener
from comics.inference.runtimes import ONNX_RUNTIME
from comics.modeling.build import load_model
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector
from comics.modeling.face_forensics import PARTS, FaceForensics, temperature_name
from comics.modeling.faces.base import FaceMethod
from comics.modeling.weights import WeightsFile
from comics.pipeline import TEMPERATURE_KEY, temperature_of

CLASS_NAMES = ["real", "fake"]
MAIN = ""  # name of the main graph


class DifferenceError(Exception):
    """A graph does not compute what the model does; the text says which, and how far it is off."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written.

    Attributes:
        path: of it.
        size: bytes.
        difference: largest difference from PyTorch, see ``compare``.
    """

    path: Path
    size: int
    difference: float


def export_model(
    weights: str | os.PathLike,
    output: str | os.PathLike,
    tolerance: float = TOLERANCE,
    report: Callable[[str], None] = lambda line: None,
    runtime: str = ONNX_RUNTIME,
) -> list[ExportedFile]:
    """Write the ONNX files of a model file; returns them, the main one first.

    The same model file gives the same bytes. A crash leaves no half-written file; one between two
    files of a model is noticed when they are read.

    Args:
        weights: a model file: of a detector, plain or COMICS, a face method, or ``FaceForensics``.
        output: the main file, or a folder for it, where it gets the model file's name.
        tolerance: largest difference that is taken, see ``compare``.
        report: takes lines of text: what is done with which graph.
        runtime: that the graphs are compared in.

    Raises:
        ImportError: if the runtime is not installed.
        FileNotFoundError, ValueError: if the model file is absent or broken, or its model cannot
            be exported.
        DifferenceError: if a graph differs by more; nothing is written.
        OSError: if the output cannot be written.
    """
    model, cfg, file = load_model(weights)
    main = _main_path(Path(weights), Path(output))
    graphs, opens = model_graphs(model), opener(runtime)
    common = _common_metadata(Path(weights), cfg, file)
    main.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=main.parent, prefix=f".{main.name}.") as folder:
        written: dict[Path, Path] = {}
        differences: dict[Path, float] = {}
        parts: dict[str, str] = {}
        for name in sorted(graphs, reverse=True):  # the main one, "", last: it knows the others
            target = main if name == MAIN else part_path(main, name)
            started = time.monotonic()
            say = partial(_say, report, target.name, started)
            metadata = common if name else common | _main_metadata(model, cfg, file, parts)
            written[target] = Path(folder) / target.name
            say("tracing")
            _save(trace(graphs[name]), metadata, written[target])
            say("comparing with PyTorch")
            differences[target] = _verified(graphs[name], written[target], target, tolerance, opens)
            if name:
                parts[name] = file_sha256(written[target])
        for target, temporary in written.items():
            os.replace(temporary, target)
    return [
        ExportedFile(target, target.stat().st_size, differences[target])
        for target in reversed(written)
    ]


def differences(weights: str | os.PathLike, main: Path, opens: Opener) -> dict[str, float]:
    """How far the files of an earlier export are off, in a runtime: see ``compare``; by file name.

    Args:
        weights: the model file that they were made from.
        main: the main file.
        opens: opens files in the runtime.

    Raises:
        FileNotFoundError, ValueError: if a file is absent, broken or does not run there.
    """
    model, _, _ = load_model(weights)
    found = {}
    for name, graph in model_graphs(model).items():
        path = part_path(main, name) if name else main
        found[path.name] = compare(graph, opens(path))
    return found


def _say(report: Callable[[str], None], name: str, started: float, what: str) -> None:
    report(f"{name}: {what} (after {time.monotonic() - started:.0f} s)")


def model_graphs(model: nn.Module) -> dict[str, Graph]:
    """The graphs of a model by name; the main one is "".

    Raises:
        ValueError: if its detector does not separate its dense part from the selection.
    """
    if isinstance(model, FaceMethod):
        return {MAIN: face_graph(model)}
    if isinstance(model, FaceForensics):
        detector = cast(Detector | Comics, model.detector)
        return {**detector_graphs(detector), FACE_PART: face_graph(model.face)}
    return detector_graphs(cast(Detector | Comics, model))


def compare(graph: Graph, session: Session) -> float:
    """The largest difference of outputs between PyTorch and a session, over ``graph.checks``.

    Each output's is relative to its largest value, absolute where that is below 1. Infinite where
    shapes differ, or values are not finite.
    """
    worst = 0.0
    for check in graph.checks:
        with torch.no_grad():
            wanted = graph.module(*check.values())
        found = session.run(*check.values())
        for one, other in zip(wanted, found, strict=True):
            if one.shape != other.shape or not (one.isfinite() & other.isfinite()).all():
                return math.inf
            if one.numel():
                scale = max(one.abs().max().item(), 1.0)
                worst = max(worst, (one - other).abs().max().item() / scale)
    return worst


def _verified(graph: Graph, path: Path, target: Path, tolerance: float, opens: Opener) -> float:
    difference = compare(graph, opens(path))
    if difference > tolerance:
        raise DifferenceError(
            f"{target.name} differs from the model by {difference:.1e}, more than {tolerance:.1e}; "
            "nothing was written"
        )
    return difference


def _main_path(weights: Path, output: Path) -> Path:
    if output.suffix.lower() == SUFFIX and not output.is_dir():
        return output
    return output / f"{weights.stem}{SUFFIX}"


def _common_metadata(weights: Path, cfg: CfgNode, file: WeightsFile) -> dict[str, str]:
    own = {k: v for k, v in sorted(file.metadata.items()) if k != "config"}
    return {
        FORMAT_KEY: FORMAT,
        VERSION_KEY: comics.__version__,
        "weights": weights.name,
        "weights_sha256": file.sha256,
        "weights_metadata": json.dumps(own),
        "class_names": json.dumps(CLASS_NAMES),
        "config": cfg.dump(),
    }


def _main_metadata(
    model: nn.Module, cfg: CfgNode, file: WeightsFile, parts: Mapping[str, str]
) -> dict[str, str]:
    metadata = {
        "score_threshold": str(cfg.TEST.SCORE_THRESH),
        "fake_threshold": str(cfg.TEST.FAKE_THRESH),
        TEMPERATURE_KEY: str(temperature_of(file.metadata, "the model file")),
        "parts": json.dumps(dict(sorted(parts.items()))),
    }
    if not isinstance(model, FaceMethod):
        metadata["pyramid"] = json.dumps(describe_pyramid(_plain_detector(model).backbone))
    if isinstance(model, FaceForensics):
        values = {part: getattr(model, temperature_name(part)).item() for part in PARTS}
        metadata["temperatures"] = json.dumps(values)
    state = _selection_weights(model)
    return metadata | ({"selection_weights": encode_weights(state)} if state else {})


def _selection_weights(model: nn.Module) -> dict[str, Tensor]:
    return {} if isinstance(model, FaceMethod) else selection_state(_plain_detector(model))


def _plain_detector(model: nn.Module) -> Detector:
    """The detector in a model: without a face method, and without the COMICS additions."""
    detector = model.detector if isinstance(model, FaceForensics) else model
    return cast(Detector, detector.detector if isinstance(detector, Comics) else detector)


def _save(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    onnx.helper.set_model_props(model, dict(metadata))
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())

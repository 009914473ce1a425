"""ONNX files of a model file, made at its first use and kept: the runtimes of ONNX files run them.

They lie in ``<cache>/onnx/``, a folder for each model file and version of this package; to delete
them costs nothing but the seconds in which they are made. Beside them lies, for each version of a
runtime, how far its results are from PyTorch's (``openvino-2026.4.1.json``): one that is new to
them is compared before it is used, and one that is too far off is not used.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comics
from comics.files import file_sha256, write_text
from comics.inference.onnx.files import EXPORTED_FROM_SHA256, TOLERANCE, VERSION_KEY
from comics.inference.onnx.predictor import LoadedFile, OnnxPredictor, load_file
from comics.inference.onnx.sessions import Opener, opener, version_of
from comics.inference.remote_weights import cache_folder
from comics.inference.runtimes import ONNX_RUNTIME

REVISION = 3  # of how graphs are made; raised where the same version makes others
NAME = "model.onnx"
HASH_DIGITS = 32  # of a folder's name: enough to tell model files apart


def kept_predictor(
    weights: str | os.PathLike,
    report: Callable[[str], None],
    runtime: str = ONNX_RUNTIME,
    **options: Any,
) -> OnnxPredictor:
    """The predictor of a model file in a runtime of ONNX files, on the CPU.

    Args:
        weights: a model file (.safetensors) of a detector or ``FaceForensics``.
        report: takes lines of text while files are made.
        runtime: see ``comics.inference.onnx.sessions.opener``.
        options: thresholds and tiling, as of ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: if the model file is absent or broken, its model cannot be
            exported, or a graph does not compute what the model does.
        ImportError: if the runtime is not installed.
        OSError: if the files cannot be kept.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no model file at {weights}")
    opens, sha256 = opener(runtime), file_sha256(weights)
    folder = f"{sha256[:HASH_DIGITS]}-{comics.__version__}-{REVISION}"
    path = cache_folder() / "onnx" / folder / NAME
    ((package, version),) = version_of(runtime).items()
    record = path.with_name(f"{package}-{version}.json")
    found, off = _opened(path, opens, sha256), _read(record)
    if found is None:
        report(f"making ONNX files of {Path(weights).name} for {package}, once:")
        off = _make(weights, path, report, runtime)
        found = load_file(path, opens)
        write_text(record, json.dumps(off))
    elif off is None:
        report(f"comparing {package} {version} with PyTorch, once")
        from comics.inference.onnx.export import differences

        off = differences(weights, path, opens)
        write_text(record, json.dumps(off))
    worst = max(off.values(), default=math.inf)
    if worst > TOLERANCE:
        raise ValueError(
            f"{package} {version} does not compute what {Path(weights).name} does: it differs by "
            f"{worst:.1e}, more than {TOLERANCE:.1e}"
        )
    return OnnxPredictor.of_loaded(found, source=weights, runtime=runtime, **options)


def _opened(path: Path, opens: Opener, sha256: str) -> LoadedFile | None:
    """Files that are there already; None where they are absent, damaged, or of another model."""
    if not path.is_file():
        return None
    try:
        found = load_file(path, opens)
    except (FileNotFoundError, ValueError):  # damaged, or made half
        return None
    metadata = found.file.metadata
    made_from = (metadata[EXPORTED_FROM_SHA256], found.file.session.metadata[VERSION_KEY])
    return found if made_from == (sha256, comics.__version__) else None


def _make(
    weights: str | os.PathLike, path: Path, report: Callable[[str], None], runtime: str
) -> dict[str, float]:
    """Make the files; how far each is off, by name, whatever that is: it is noted beside them."""
    shutil.rmtree(path.parent, ignore_errors=True)
    # What is needed once is not imported at every start
    from comics.inference.onnx.export import export_model

    made = export_model(weights, path, math.inf, report, runtime)
    return {one.path.name: one.difference for one in made}


def _read(record: Path) -> Mapping[str, float] | None:
    """What was noted of a runtime; None where nothing was, or the note is damaged."""
    try:
        noted = json.loads(record.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in noted.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None

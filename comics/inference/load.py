"""The predictor of a model file, and the runtime that its networks run in."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comics.inference.predictor import Predictor

ONNX_SUFFIX = ".onnx"
RUNTIMES = ("auto", "torch", "onnx")
VARIABLE = "COMICS_RUNTIME"  # the runtime where none is asked for
FOR_ONNX = ("onnx", "onnxruntime")  # packages of the extra "onnx"
PYTORCHS_OWN = ("amp", "compiled", "face_weights")  # options that model files need PyTorch for
logger = logging.getLogger(__name__)


def load_predictor(
    path: str | os.PathLike,
    device: str = "auto",
    runtime: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Predictor:
    """``OnnxPredictor`` of a .onnx file; of a model file as the runtime says.

    Args:
        path: a model file, or an ONNX file of ``comics export``.
        device: "auto", "cpu", "cuda", ...
        runtime: "torch"; "onnx": ONNX Runtime on the CPU, about twice as quick, verdicts within
            1e-4 of PyTorch's, with ONNX files that are made at the first use and kept; "auto": that
            where it is installed and the device is the CPU, and PyTorch else; None: what
            $COMICS_RUNTIME says, else "auto".
        report: takes lines of text while ONNX files are made.
        options: see ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: as ``from_file``; or if the runtime is unknown, not
            installed, or cannot run the model as asked for.
    """
    asked = runtime or os.environ.get(VARIABLE) or "auto"
    if asked not in RUNTIMES:
        raise ValueError(f"the runtime is one of {', '.join(RUNTIMES)}, not {asked!r}")
    if Path(path).suffix.lower() == ONNX_SUFFIX:
        if runtime == "torch":
            raise ValueError(f"{path} is for ONNX Runtime, and does not run in PyTorch")
        return _of_onnx_file(path, device, options)
    if asked == "onnx":
        return _kept(path, device, report, options)
    if asked == "auto" and _onnx_suits(device, options):
        try:
            return _kept(path, device, report, options)
        except FileNotFoundError:
            raise
        except (ValueError, OSError) as error:  # PyTorch may still run it
            logger.info("PyTorch runs the model, since ONNX Runtime does not: %s", error)
    from comics.inference.predictor import Predictor

    return Predictor.from_file(path, device, **options)


def _onnx_suits(device: str, options: dict[str, Any]) -> bool:
    """Whether "auto" is ONNX Runtime."""
    if any(options.get(name) for name in PYTORCHS_OWN):
        return False
    if not all(importlib.util.find_spec(name) for name in FOR_ONNX):
        return False
    if device == "auto":
        from comics.modeling.build import choose_device

        return choose_device(device).type == "cpu"
    return device == "cpu"


def _kept(
    path: str | os.PathLike,
    device: str,
    report: Callable[[str], None],
    options: dict[str, Any],
) -> Predictor:
    if device not in ("auto", "cpu"):
        raise ValueError(f"runtime onnx is for the CPU; on {device} use PyTorch (runtime torch)")
    for name in PYTORCHS_OWN:
        if options.get(name):
            raise ValueError(f"{name} needs PyTorch: do without runtime onnx, or export the models")
    try:
        from comics.inference.onnx.kept import kept_predictor
    except ImportError as error:  # an extra
        raise _missing("runtime onnx", error) from error
    own = {name: value for name, value in options.items() if name not in PYTORCHS_OWN}
    return kept_predictor(path, report, **own)


def _of_onnx_file(path: str | os.PathLike, device: str, options: dict[str, Any]) -> Predictor:
    try:
        from comics.inference.onnx.predictor import OnnxPredictor
    except ImportError as error:  # an extra
        raise _missing(str(path), error) from error
    return OnnxPredictor.from_file(path, device, **options)


def _missing(what: str, error: ImportError) -> Exception:
    """The error to raise where a package of the extra is absent; any other is itself."""
    if error.name not in FOR_ONNX:
        return error
    return ValueError(f'{what} needs ONNX Runtime: pip install "comics-forensics[onnx]"')

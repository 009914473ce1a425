"""The predictor of a model file, and the runtime that its networks run in."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comics.inference.runtimes import AUTO, ONNX_RUNTIME, PACKAGES, QUICKEST, RUNTIMES, TORCH

if TYPE_CHECKING:
    from comics.inference.predictor import Predictor

ONNX_SUFFIX = ".onnx"
VARIABLE = "COMICS_RUNTIME"  # the runtime where none is asked for
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
        runtime: "torch"; "onnx" (ONNX Runtime) or "openvino": on the CPU, about twice as
            quick, verdicts within 1e-3 of PyTorch's, with ONNX files that are made at the first use
            and kept; "auto": the quickest that is installed and can, where the device is the CPU,
            and PyTorch else; None: what $COMICS_RUNTIME says, else "auto".
        report: takes lines of text while ONNX files are made.
        options: see ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: as ``from_file``; or if the runtime is unknown, not
            installed, or cannot run the model as asked for.
    """
    asked = runtime or os.environ.get(VARIABLE) or AUTO
    if asked not in RUNTIMES:
        raise ValueError(f"the runtime is one of {', '.join(RUNTIMES)}, not {asked!r}")
    if Path(path).suffix.lower() == ONNX_SUFFIX:
        if runtime == TORCH:
            raise ValueError(f"{path} is an ONNX file, and does not run in PyTorch")
        return _of_onnx_file(path, device, asked if asked in PACKAGES else ONNX_RUNTIME, options)
    if asked in PACKAGES:
        return _kept(path, device, asked, report, options)
    for each in QUICKEST if asked == AUTO else ():
        if not _suits(each, device, options):
            continue
        try:
            return _kept(path, device, each, report, options)
        except FileNotFoundError:
            raise
        except (ValueError, OSError, ImportError) as error:  # another may still run it
            logger.info("the runtime %s does not run the model: %s", each, error)
    from comics.inference.predictor import Predictor

    return Predictor.from_file(path, device, **options)


def _suits(runtime: str, device: str, options: dict[str, Any]) -> bool:
    """Whether "auto" may be that runtime."""
    if any(options.get(name) for name in PYTORCHS_OWN):
        return False
    if not all(importlib.util.find_spec(name) for name in PACKAGES[runtime]):
        return False
    if device == "auto":
        import torch

        return not torch.cuda.is_available()
    return device == "cpu"


def _kept(
    path: str | os.PathLike,
    device: str,
    runtime: str,
    report: Callable[[str], None],
    options: dict[str, Any],
) -> Predictor:
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"runtime {runtime} is for the CPU; on {device} use PyTorch (runtime torch)"
        )
    for name in PYTORCHS_OWN:
        if options.get(name):
            raise ValueError(
                f"{name} needs PyTorch: do without runtime {runtime}, or export the models"
            )
    own = {name: value for name, value in options.items() if name not in PYTORCHS_OWN}
    try:
        from comics.inference.onnx.kept import kept_predictor

        return kept_predictor(path, report, runtime, **own)
    except ImportError as error:  # an extra
        raise _missing(f"runtime {runtime}", runtime, error) from error


def _of_onnx_file(
    path: str | os.PathLike, device: str, runtime: str, options: dict[str, Any]
) -> Predictor:
    from comics.inference.onnx.predictor import OnnxPredictor

    try:
        return OnnxPredictor.from_file(path, device, runtime=runtime, **options)
    except ImportError as error:  # an extra
        raise _missing(str(path), runtime, error) from error


def _missing(what: str, runtime: str, error: ImportError) -> Exception:
    """The error to raise where a package of the extra is absent; any other is itself."""
    if error.name not in PACKAGES[runtime]:
        return error
    return ValueError(f'{what} needs {error.name}: pip install "comics-forensics[{runtime}]"')

"""The predictor of a model file, whichever runtime the file is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comics.inference.predictor import Predictor

ONNX_SUFFIX = ".onnx"


def load_predictor(path: str | os.PathLike, device: str = "auto", **options: Any) -> Predictor:
    """``OnnxPredictor`` of a .onnx file, ``Predictor`` of any other.

    Args:
        path: a model file, or an ONNX file of ``tools/export_onnx.py``.
        device: "auto", "cpu", "cuda", ...
        options: see ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: as ``from_file``; or if ONNX Runtime is not installed.
    """
    if Path(path).suffix.lower() != ONNX_SUFFIX:
        from comics.inference.predictor import Predictor

        return Predictor.from_file(path, device, **options)
    try:
        from comics.inference.onnx.predictor import OnnxPredictor
    except ImportError as error:  # onnxruntime is an extra
        if error.name != "onnxruntime":
            raise
        raise ValueError(
            f'{path} needs ONNX Runtime: pip install "comics-forensics[onnx]"'
        ) from error
    return OnnxPredictor.from_file(path, device, **options)

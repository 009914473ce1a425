"""ONNX files of a model file, made at its first use and kept: ONNX Runtime then runs it.

They lie in ``<cache>/onnx/``, a folder for each model file and version of this package; to delete
them costs nothing but the seconds in which they are made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comics
from comics.files import file_sha256
from comics.inference.onnx.predictor import OnnxPredictor
from comics.inference.remote_weights import cache_folder

REVISION = 1  # of how graphs are made; raised where the same version makes others
NAME = "model.onnx"
HASH_DIGITS = 32  # of a folder's name: enough to tell model files apart


def kept_predictor(
    weights: str | os.PathLike, report: Callable[[str], None], **options: Any
) -> OnnxPredictor:
    """The predictor of a model file in ONNX Runtime, on the CPU.

    Args:
        weights: a model file (.safetensors) of a detector or ``FaceForensics``.
        report: takes lines of text while files are made.
        options: thresholds and tiling, as of ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: if the model file is absent or broken, its model cannot be
            exported, or a graph does not compute what the model does.
        OSError: if the files cannot be kept.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no model file at {weights}")
    name = f"{file_sha256(weights)[:HASH_DIGITS]}-{comics.__version__}-{REVISION}"
    path = cache_folder() / "onnx" / name / NAME
    if path.is_file():
        try:
            return OnnxPredictor.from_file(path, "cpu", source=weights, **options)
        except (FileNotFoundError, ValueError):  # damaged, or made half
            shutil.rmtree(path.parent, ignore_errors=True)
    report(f"making ONNX files of {Path(weights).name} for ONNX Runtime, once:")
    # What is needed once is not imported at every start
    from comics.inference.onnx.export import DifferenceError, export_model

    try:
        export_model(weights, path, report=report)
    except DifferenceError as error:
        raise ValueError(str(error)) from error
    return OnnxPredictor.from_file(path, "cpu", source=weights, **options)

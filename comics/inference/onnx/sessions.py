"""What runs a graph: the same few lines for each program that can.

``comics.inference.onnx.onnx_runtime`` and ``comics.inference.onnx.open_vino`` have the sessions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from comics.inference.runtimes import OPENVINO


class Session(Protocol):
    """A graph, ready to run on tensors.

    Attributes:
        device: "cpu" or "cuda".
        inputs, outputs: their names.
    """

    device: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the graph's file, text by name."""

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs, on the CPU, for its inputs, in its order."""


# Opens a graph's file, by its path. Raises ``FileNotFoundError`` if there is none, and
# ``ValueError`` if it is no ONNX file that can run here
Opener = Callable[[str | os.PathLike], Session]


def opener(runtime: str, device: str = "cpu") -> Opener:
    """What opens files in a runtime.

    Args:
        runtime: "onnx" or "openvino": see ``comics.inference.runtimes``.
        device: of ONNX Runtime: see ``providers_for``. OpenVINO runs on the CPU.

    Raises:
        ImportError: if the runtime is not installed; its ``name`` is the package.
        ValueError: if the device is not there, or not the runtime's.
    """
    if runtime == OPENVINO:
        from comics.inference.onnx.open_vino import OpenVinoSession

        if device not in ("auto", "cpu"):
            raise ValueError(f"OpenVINO is for the CPU here, not for {device}")
        return OpenVinoSession
    from comics.inference.onnx.onnx_runtime import OnnxRuntimeSession, providers_for

    providers = providers_for(device)
    return lambda path: OnnxRuntimeSession(path, providers)


def version_of(runtime: str) -> dict[str, str]:
    """Package and version of a runtime, for outputs and for what is kept."""
    if runtime == OPENVINO:
        from comics.inference.onnx.open_vino import VERSION

        return {"openvino": VERSION}
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}

"""Graphs in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

try:
    import onnxruntime
except ImportError as error:  # an extra of the package
    raise ImportError(
        'ONNX models need onnxruntime: pip install "comics-forensics[onnx]"', name="onnxruntime"
    ) from error

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
QUIET = 3  # onnxruntime's log level "error"


def providers_for(device: str) -> list[tuple[str, dict]]:
    """ONNX Runtime's providers, first choice first.

    Args:
        device: "auto" is CUDA where ONNX Runtime has it, else the CPU; or "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: for another device, or CUDA where it is absent.
    """
    has_cuda = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return [(CPU_PROVIDER, {})]
    if kind != "cuda" or (number and not number.isdigit()):
        raise ValueError(f"ONNX models run on auto, cpu, cuda or cuda:<number>, not {device!r}")
    if not has_cuda:
        raise ValueError(
            f"device {device!r} is asked for, but this ONNX Runtime has no CUDA; the package "
            "onnxruntime-gpu has"
        )
    return [(CUDA_PROVIDER, {"device_id": number or "0"}), (CPU_PROVIDER, {})]


class OnnxRuntimeSession:
    """See ``comics.inference.onnx.sessions.Session``.

    Args:
        path: of the ONNX file.
        providers: see ``providers_for``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no ONNX file that can run here.
    """

    def __init__(self, path: str | os.PathLike, providers: Sequence[tuple[str, dict]]) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no model file at {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as the rest of the program
        options.log_severity_level = QUIET
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=list(providers)
            )
        # Each fault has a class of its own, not all of which are public
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{path} is not a readable ONNX file: {first[0]}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.device = self._session.get_providers()[0].removesuffix("ExecutionProvider").lower()
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs, on the CPU, for its inputs, in its order."""
        feeds = {
            name: tensor.detach().cpu().contiguous().numpy()
            for name, tensor in zip(self.inputs, inputs, strict=True)
        }
        return tuple(torch.from_numpy(found) for found in self._session.run(None, feeds))

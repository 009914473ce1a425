"""Graphs in OpenVINO, on the CPU, in float32.

What OpenVINO would do by itself is not wanted: it computes in bfloat16 where the CPU can, which is
up to 4 % off, and pins its threads to cores that others use too.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import torch
from torch import Tensor

# A module that is None cannot be imported: without its telemetry package, importing OpenVINO tells
# nobody of it (by itself it tells Google Analytics, under an identifier kept in the home folder)
TELEMETRY = "openvino_telemetry"
_known = sys.modules.get(TELEMETRY)
sys.modules[TELEMETRY] = None  # type: ignore[assignment]
try:
    import openvino
except ImportError as error:  # an extra of the package
    raise ImportError(
        'the runtime openvino needs OpenVINO: pip install "comics-forensics[openvino]"',
        name="openvino",
    ) from error
finally:
    del sys.modules[TELEMETRY]
    if _known is not None:
        sys.modules[TELEMETRY] = _known

VERSION = openvino.__version__.split("-")[0]
DEVICE = "CPU"
METADATA = "framework"  # where OpenVINO has an ONNX file's metadata


class OpenVinoSession:
    """See ``comics.inference.onnx.sessions.Session``.

    Args:
        path: of the ONNX file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no ONNX file that can run here.
    """

    device = "cpu"

    def __init__(self, path: str | os.PathLike) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no model file at {path}")
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # as the rest of the program
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        try:
            model = core.read_model(os.fspath(path))
            told = dict(model.rt_info.items()).get(METADATA, {})
            # Before it is compiled: then they have further names
            self.inputs = tuple(one.get_any_name() for one in model.inputs)
            self.outputs = tuple(one.get_any_name() for one in model.outputs)
            self._compiled = core.compile_model(model, DEVICE, settings)
        # Faults of files and of operations surface as several classes
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"{path} is not a readable ONNX file: {first[-1].strip()}") from error
        self.metadata: dict[str, str] = {name: text.astype(str) for name, text in told.items()}
        self._own = threading.local()  # a request of each thread: one holds one thread's tensors

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs, on the CPU, for its inputs, in its order."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        feeds = [one.detach().cpu().contiguous().numpy() for one in inputs]
        found = self._own.request.infer(dict(enumerate(feeds)), share_inputs=True)
        return tuple(torch.from_numpy(found[position]) for position in range(len(self.outputs)))

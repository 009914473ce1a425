"""Names of the runtimes that networks run in, and what each needs."""

from __future__ import annotations

AUTO, TORCH, ONNX_RUNTIME, OPENVINO = "auto", "torch", "onnx", "openvino"
RUNTIMES = (AUTO, TORCH, ONNX_RUNTIME, OPENVINO)
# Packages of the extra of the same name: both run ONNX files, which the package "onnx" makes
PACKAGES = {ONNX_RUNTIME: ("onnx", "onnxruntime"), OPENVINO: ("onnx", "openvino")}
# What "auto" tries on a CPU, the quickest first: docs/benchmarks.md#runtimes
QUICKEST = (ONNX_RUNTIME, OPENVINO)

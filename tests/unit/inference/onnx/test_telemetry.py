"""The runtimes that others make tell nobody that they are used, and leave nothing behind."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTS = (
    "import comics.inference.onnx.onnx_runtime, comics.inference.onnx.open_vino, openvino.tools.ovc"
)


def test_runtimes_send_nothing_and_leave_nothing_behind(tmp_path: Path) -> None:
    # Both told their makers at import, under identifiers kept in the home or the temporary folder;
    # so whether they are installed is asked without importing them
    for needed in ("onnxruntime", "openvino"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"
    }
    environment |= {"HOME": os.fspath(home), "TMPDIR": os.fspath(temporary)}
    code = f"import sys; {IMPORTS}; print('openvino_telemetry' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True
    )
    assert ran.stdout.split() == ["False"]
    left = [path for path in (*home.rglob("*"), *temporary.rglob("*")) if path.is_file()]
    assert left == []

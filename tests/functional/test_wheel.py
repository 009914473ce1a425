"""What pip users get: the wheel holds the configurations, the weights and their licence."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path):
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "comics", "configs", "setup.py", "pyproject.toml", "README.md",
         "LICENSE", "LICENSE-WEIGHTS", "MANIFEST.in"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir",
         str(tmp_path), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    configs = {f"comics/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= names and len(configs) > 50
    assert {"comics/weights/default.safetensors", "comics/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE-WEIGHTS") for name in names)
    assert not any(name.startswith(("tests/", "tools/")) for name in names)

"""docs/adding_a_detector.md: its example passes every test that registered detectors must pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_detector.md"


@pytest.mark.slow
def test_the_example_passes_the_registry_wide_tests(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = next(block for block in blocks if "class EllipseFCOS" in block)
    (tmp_path / "ellipse_fcos.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ellipse_fcos", "-p", "no:cacheprovider",
         "-k", "EllipseFCOS", "tests/unit/modeling/test_every_detector.py"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    # Plain and COMICS, three each; the COMICS variant is overfitted
    assert re.search(r"\b7 passed", done.stdout), done.stdout[-500:]

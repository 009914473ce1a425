"""The benchmark of the evaluation, at a thousandth of its size: it runs, and both sides agree."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lab" / "benchmark.py"


@pytest.mark.slow
def test_both_sides_agree_and_the_ratio_is_printed():
    command = [sys.executable, TOOL, "evaluation", "--scale", "0.003"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    gap = next(line for line in lines if line.startswith("largest difference of an AP"))
    assert float(gap.split()[-1]) < 1e-9
    assert any(line.startswith("ratio") for line in lines)

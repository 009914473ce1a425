"""The benchmark of videos, tiny: it runs, and prints each figure beside the model's own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lab" / "benchmark.py"


@pytest.mark.slow
def test_figures_are_printed_beside_the_models_own():
    command = [sys.executable, TOOL, "inference", "--frames", "4", "--rounds", "1", "--min-size",
               "64", "--width", "96", "--height", "64", "--device", "cpu"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert first.startswith("4 frames of 96x64")
    assert [row.split("  ")[1] for row in rows] == [
        "model alone", "to results", "to results and annotated video",
    ]  # fmt: skip
    assert all(re.search(r"frames/s .* \d+ % of the model's own; \d+ ms of CPU", r) for r in rows)
    assert "100 % of the model's own" in rows[0]

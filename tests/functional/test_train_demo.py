"""The training demo, small enough for a test: every stage runs; a second call does none twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_demo(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/lab/train_demo.py", "--output", folder,
         "--train-images", "8", "--test-images", "4", "--iterations", "2",
         "DATALOADER.NUM_WORKERS", "0"],
        capture_output=True, text=True, cwd=folder.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_makes_everything_and_continues_where_it_was(tmp_path):
    folder = tmp_path / "demo"
    output = run_demo(folder)
    assert "Open" in output
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 4
    assert "test_dev" in page
    assert "test_challenge" in page
    results = json.loads((folder / "inference/results.json").read_text())
    assert [results["summary"][key] for key in ("ok", "partial", "failed")] == [5, 0, 0]
    assert (folder / "clip.mp4").stat().st_size > 0
    stamp = (folder / "train/model_final.safetensors").stat().st_mtime_ns
    assert "is there already" in run_demo(folder)
    assert (folder / "train/model_final.safetensors").stat().st_mtime_ns == stamp

"""tools/make_dataset.py as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools/make_dataset.py")]
SMALL = [
    *("--train", "20", "--val", "2", "--test-dev", "2", "--test-challenge", "2"),
    *("--size", "160", "--quiet"),
]
DEADLINE = 60  # seconds until a process must have done something


def run(*arguments):
    return subprocess.run(
        [*TOOL, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".records" not in path.parts
    }


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE} s for {what}"
        time.sleep(0.02)


def is_running(pid):
    """Whether a process works: not gone, not a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children in /proc")
def test_a_killed_run_is_finished_to_the_same_bytes(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*TOOL, "--output", killed, *SMALL, "--workers", "2"], cwd=ROOT)
    wait_until(lambda: len(list(killed.rglob(".records/train/*.json"))) >= 3, "three images")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_running, children)), "the workers to end")
    assert not (killed / "train.json").exists()
    again = run("--output", killed, *SMALL, "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert " 0 found finished" not in again.stdout
    once = run("--output", whole, *SMALL, "--workers", 0)
    assert once.returncode == 0, once.stderr
    assert contents(killed) == contents(whole)


def test_bad_photos_give_exit_code_3_and_bad_arguments_2(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    images, annotations = [], []
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 60, "height": 50})
        box = {"bbox": [10, 8, 24, 30], "category_id": 0}
        annotations.append({"id": index, "image_id": index, **box})
    (photos / "2.png").write_bytes(b"")
    (photos / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    common = ("--source", photos, "--output", tmp_path / "out", "--workers", 0, "--quiet")
    result = run(*common, "--ratio", 1, 0, 0, 0)
    assert result.returncode == 3, result.stderr
    assert "skipped 2.png" in result.stderr and "1 skipped" in result.stdout
    assert len(json.loads((tmp_path / "out/train.json").read_text())["images"]) == 3
    refused = run(*common, "--ratio", 1, 0, 0, 0, "--methods", "self_blnd")
    assert refused.returncode == 2
    assert "self_blnd" in refused.stderr and "Traceback" not in refused.stderr


def test_a_share_of_train_can_be_corrupted(tmp_path):
    few = ("--train", 2, "--val", 1, "--test-dev", 0, "--test-challenge", 0)
    common = (*few, "--size", 96, "--workers", 0, "--quiet")
    for folder, share in (("plain", 0), ("corrupted", 1)):
        result = run("--output", tmp_path / folder, *common, "--corrupt-train", share)
        assert result.returncode == 0, result.stderr
    plain, corrupted = contents(tmp_path / "plain"), contents(tmp_path / "corrupted")
    pictures = {name for name in plain if name.endswith(".jpg")}
    changed = {name for name in pictures if plain[name] != corrupted[name]}
    assert len(pictures) == 3 and changed == {n for n in pictures if n.startswith("images/train")}
    notes = [json.loads(files["train.json"]) for files in (plain, corrupted)]
    assert notes[0]["annotations"] == notes[1]["annotations"]
    assert [note["info"]["arguments"]["corrupt_train"] for note in notes] == [0, 1]
    refused = run("--output", tmp_path / "no", *common, "--corrupt-train", 1.5)
    assert refused.returncode == 2
    assert "corrupt_train must be in [0, 1], got 1.5" in refused.stderr


def test_the_help_teaches():
    result = run("--help")
    assert result.returncode == 0
    for word in ("Examples", "upsampling_grid", "--unseen-methods", "Exit code", "continues"):
        assert word in result.stdout


def test_real_photos_give_a_set(shared_dir, tmp_path):
    out = tmp_path / "out"
    counts = ("--train", 6, "--val", 2, "--test-dev", 2, "--test-challenge", 2)
    common = ("--output", out, "--workers", 0, "--quiet", "--size", 320)
    result = run("--source", shared_dir / "data", *common, *counts)
    assert result.returncode == 0, result.stderr
    content = json.loads((out / "train.json").read_text())
    assert len(content["images"]) == 6
    for image in content["images"]:
        assert max(image["width"], image["height"]) <= 320
        assert (out / image["file_name"]).is_file()

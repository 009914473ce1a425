"""tools/lab/gpu_check.py, on the CPU: what it measures, and that nothing stops it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools/lab/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


@pytest.fixture
def rows(tool, tmp_path):
    """Function: words of a command line -> exit code, and the rows of its file."""

    def run(*words):
        code = tool.main(["--device", "cpu", "--output", str(tmp_path), *words])
        content = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
        assert (tmp_path / "gpu_check.md").read_text().count("\n") == len(content) + 2
        return code, content

    return run


def test_machine_group_and_face_methods(rows):
    code, found = rows("--checks", "machine", "nccl", "faces")
    assert code == 0
    assert {row["check"] for row in found} == {"machine", "nccl", "faces"}
    judged = [row for row in found if row["right"] is not None]
    assert len(judged) > 10 and all(row["right"] for row in judged)
    rate = next(row for row in found if row["unit"] == "TFLOP/s")
    assert rate["value"] > 0


def test_how_often_a_step_would_wait(rows):
    code, found = rows("--checks", "waits")
    assert code == 0
    assert [row["subject"] for row in found] == ["BlendMask", "COMICS-BlendMask"]
    assert all(row["right"] and row["value"] > 0 for row in found)


@pytest.mark.slow
def test_a_detector_and_its_speed(rows):
    code, found = rows("--checks", "speed", "detectors", "precision", "--only", "COMICS-BlendMask")
    assert code == 0
    whats = [row["what"] for row in found]
    assert "inference, share of the floor" in whats and "training, batch 2" in whats
    assert "largest difference from the CPU" in whats and "mean difference" in whats


def test_an_error_is_a_row_and_the_rest_goes_on(rows, tool, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no kernel image\nfurther lines")

    monkeypatch.setattr(tool, "make_detector", broken)
    code, found = rows("--checks", "detectors", "nccl", "--only", "O")
    assert code == 1
    faults = [row for row in found if row["right"] is False]
    assert faults and all(row["value"] == "RuntimeError: no kernel image" for row in faults)
    assert json.dumps(found)  # no tensors


def test_what_time_does_not_allow_is_told(rows):
    code, found = rows("--minutes", "0", "--checks", "nccl")
    assert code == 0
    assert [row["what"] for row in found] == ["left out"]


def test_a_difference_is_seen(tool):
    wanted = {"a": torch.tensor([1.0, -4.0]), "b": torch.zeros(0)}
    assert tool.difference({"a": torch.tensor([1.0, -3.0]), "b": torch.zeros(0)}, wanted) == 0.25
    assert tool.mean_difference({"a": torch.tensor([1.0, -3.0])}, {"a": wanted["a"]}) == 0.2

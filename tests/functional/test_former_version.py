"""What the code of commit 477dd01 wrote is read, and gives the numbers that it gave then.

``tests/fixtures/former_version/README.md`` says what the files are.
"""

import csv
import hashlib
import importlib.util
import json
import lzma
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from comics.cli import main
from comics.config import load_config
from comics.modeling.build import load_model

FORMER = Path(__file__).resolve().parents[1] / "fixtures" / "former_version"
NEW_NAMES = {"FCOS": 0.02, "MEInst": 0.03, "SOLOV2": 0.07}  # section -> what detector.yaml says
PICTURES = "data/images/val"


@pytest.fixture(scope="module", autouse=True)
def plain_convolutions():
    """The encoder of face.safetensors, and no oneDNN, whose backward pass crashes at width 2."""
    path = FORMER / "with_fixture_encoder.py"
    spec = importlib.util.spec_from_file_location("with_fixture_encoder", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the files, as they were when they were written, and the current folder."""
    shutil.copytree(FORMER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    """SHA-256 of every file below a folder, by its name; locks are empty."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("name", ["detector.yaml", "train/config.yaml"])
def test_configurations(name, caplog):
    with caplog.at_level("INFO", logger="comics"):
        cfg = load_config(FORMER / name)
    values = {section: cfg.MODEL[section].SCORE_THRESH_TEST for section in NEW_NAMES}
    assert values == NEW_NAMES
    for old in ("FCOS.INFERENCE_TH_TEST", "MEInst.INFERENCE_TH_TEST", "SOLOV2.SCORE_THR"):
        assert f"the key MODEL.{old} is now called" in caplog.text


def test_words_of_the_command_line(caplog):
    with caplog.at_level("INFO", logger="comics"):
        cfg = load_config(None, ["MODEL.SOLOV2.SCORE_THR", "0.4"])
    assert cfg.MODEL.SOLOV2.SCORE_THRESH_TEST == 0.4
    assert "is now called" in caplog.text


def test_training_continues_from_its_checkpoint(folder):
    metrics = folder / "train/metrics.jsonl"
    former = [json.loads(line) for line in metrics.read_text().splitlines()]
    packed = folder / "train/checkpoint_00000002.pt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    assert main(["train", "--runtime", "native", "--config-file", "detector.yaml", "--resume"]) == 0
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = {line["iteration"]: line for line in lines if "loss/total" in line}
    assert sorted(losses) == [1, 2, 3, 4]
    for line in former:
        if "loss/total" not in line:
            continue
        for name, value in line.items():
            if name.startswith("loss/"):
                found = losses[line["iteration"]][name]
                assert found == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert (folder / "train/model_final.safetensors").is_file()


def detect(folder, output, *words):
    assert main(["detect", "--weights", "detector.safetensors", "--no-media", "--device", "cpu",
                 "--output", output, *words, PICTURES]) == 0  # fmt: skip
    return json.loads((folder / output / "results.json").read_text())


def compare_faces(found, former):
    assert len(found["results"]) == len(former["results"]) > 0
    for one, other in zip(found["results"], former["results"], strict=True):
        for key in ("image_id", "category_id", "file_name"):
            assert one[key] == other[key]
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=0.05)
        for key in ("score", "fake_probability"):
            assert one[key] == pytest.approx(other[key], abs=1e-4)
        ours, theirs = (coco_mask.decode(each["segmentation"]) for each in (one, other))
        # Masks are drawn once, at the picture's size; then they were resized once more
        assert (ours != theirs).mean() < 5e-3


def test_model_file_gives_its_numbers(folder):
    former = json.loads((folder / "run/results.json").read_text())
    compare_faces(detect(folder, "out"), former)


def test_face_model_file_gives_its_numbers(folder):
    assert load_model("face.safetensors", "cpu") is not None
    former = json.loads((folder / "run_face/results.json").read_text())
    compare_faces(detect(folder, "out", "--face-weights", "face.safetensors"), former)


def test_report_of_a_former_run(folder):
    before = content(folder / "run")
    assert main(["report", "run"]) == 0
    page = (folder / "run/report.html").read_text()
    after = content(folder / "run")
    assert {name: after[name] for name in before} == before
    rows = list(csv.DictReader((folder / "run/results.csv").read_text().splitlines()))
    assert rows
    for row in rows:
        assert Path(row["file_name"]).name in page


def test_a_former_run_is_not_continued_in_silence(folder, capsys):
    """Its verdicts follow other rules: the command says so, and changes nothing."""
    _with_times_of(folder)
    before = content(folder / "run")
    words = ["detect", "--weights", "detector.safetensors", "--output", "run", PICTURES]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "an earlier version" in error
    assert "--overwrite" in error
    assert content(folder / "run") == before
    assert main([*words, "--overwrite", "--device", "cpu"]) == 0
    former = json.loads((FORMER / "run/results.json").read_text())
    compare_faces(json.loads((folder / "run/results.json").read_text()), former)


def _with_times_of(folder):
    """Give the pictures the times of change that the record of the run knows them by."""
    for line in (folder / "run/.comics/files.jsonl").read_bytes().splitlines():
        checksum, _, text = line.partition(b" ")
        assert checksum == b"%08x" % zlib.crc32(text)
        path, size, changed = json.loads(text)["key"]
        assert os.stat(path).st_size == size
        os.utime(path, ns=(changed, changed))

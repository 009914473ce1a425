"""The recipe of the shipped model, one step of each training: every stage fits the next."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from comics.config import load_config_text
from comics.data.synthetic import draw_scene
from comics.evaluation.verdict_figures import SIZES
from comics.inference.default_weights import SHIPPED
from comics.inference.predictor import Predictor
from comics.modeling.weights import read_weights, save_weights

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lab"))
import train_default as tool  # noqa: E402

PHOTOS = 40


def write_photos(folder):
    """Drawn scenes as annotated photos of real people."""
    folder.mkdir()
    images, annotations = [], []
    for number in range(1, PHOTOS + 1):
        scene = draw_scene(np.random.default_rng(number), (96, 128))
        cv2.imwrite(str(folder / f"{number}.png"), scene.image[:, :, ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        for face in scene.faces:
            x0, y0, x1, y1 = (float(value) for value in face.box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 0,
                 "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            )  # fmt: skip
    content = {"images": images, "annotations": annotations,
               "categories": [{"id": 0, "name": "real_face"}]}  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def run(tool, *words):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *words],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_every_stage_of_the_recipe_fits_the_next(tmp_path, monkeypatch, capfd):
    # Three sets of training photos instead of twelve: each is a process
    monkeypatch.setattr(tool, "SEEDS", 3)
    for stages in ("DETECTOR_STAGES", "FACE_STAGES"):
        fewer = {name: min(count, 3) for name, count in getattr(tool, stages).items()}
        monkeypatch.setattr(tool, stages, fewer)
    write_photos(tmp_path / "photos")
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "imagenet.pth")
    output = tmp_path / "out"
    words = ["--photos", tmp_path / "photos", "--imagenet", tmp_path / "imagenet.pth",
             "--output", output, "--train-images", "10", "--iterations", "1"]  # fmt: skip
    words = [str(word) for word in words]
    # A detector of three steps finds nothing, so there is nothing to choose a threshold on
    assert tool.main(words) == 2
    assert "benchmark_photos.py: " in capfd.readouterr().err
    assert not (output / "default.safetensors").exists()
    joined = read_weights(output / "joined.safetensors")
    assert len(json.loads(joined.metadata["detector_data_sha256"])) == 4  # three of train, val
    assert len(json.loads(joined.metadata["face_data_sha256"])) == 4
    halves = [v.dtype for v in joined.state.values() if v.ndim > 1 and v.is_floating_point()]
    assert set(halves) == {torch.float16}
    predictor = Predictor.from_file(output / "joined.safetensors", "cpu")
    assert {p.dtype for p in predictor.model.parameters()} == {torch.float32}
    stamp = (output / "joined.safetensors").stat().st_mtime_ns
    assert tool.main(words) == 2
    assert capfd.readouterr().out.count("$ python") == 1  # what is done is not done again
    assert (output / "joined.safetensors").stat().st_mtime_ns == stamp


def test_thresholds_are_chosen_on_one_split_and_measured_on_another(tmp_path):
    data = tmp_path / "data"
    made = run("make_dataset.py", "--output", data, "--quiet", "--workers", "1", "--train", "0",
               "--val", "6", "--test-dev", "4", "--test-challenge", "0")  # fmt: skip
    assert made.returncode == 0, made.stderr
    shipped = read_weights(SHIPPED)
    metadata = {k: v for k, v in shipped.metadata.items() if k not in ("config", "temperature")}
    source, chosen = tmp_path / "source.safetensors", tmp_path / "chosen.safetensors"
    save_weights(source, shipped.state, load_config_text(shipped.metadata["config"]), metadata)
    words = ["--weights", source, "--data", data, "--output", tmp_path / "out"]
    done = run("lab/benchmark_photos.py", *words, "--choose", "val", "--store", chosen)
    assert done.returncode == 0, done.stderr
    file = read_weights(chosen)
    assert file.metadata["temperature_fitted_on"].startswith("val of data")
    assert float(file.metadata["temperature"]) > 0
    twice = run("lab/benchmark_photos.py", "--weights", chosen, *words[2:], "--choose", "val",
                "--store", tmp_path / "again.safetensors")  # fmt: skip
    assert twice.returncode == 2
    assert "calibrated already" in twice.stderr
    done = run("lab/benchmark_photos.py", "--weights", chosen, *words[2:], "--splits", "test_dev",
               "--limit", "3", "--conditions", "jpeg:50")  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out/figures.json").read_text(encoding="utf-8"))
    assert all(f"test_dev, {size}" in content["figures"] for size in SIZES)
    assert "test_dev, jpeg 50" in content["figures"]
    assert content["provenance"]["calibration"]["state"] == "calibrated"
    truth = json.loads((data / "test_dev.json").read_text(encoding="utf-8"))
    looked_at = {v["image_id"] for v in json.loads((tmp_path / "out/test_dev.json").read_text())}
    assert looked_at <= {image["id"] for image in truth["images"]}
    assert len(looked_at) <= 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splits", "val", "--conditions", "jpeg"], "NAME:LEVEL"),
        ([], "--splits"),
        (["--choose", "val"], "--store"),
        (["--splits", "val"], "no model file"),
    ],
)
def test_measuring_that_cannot_start(tmp_path, words, message):
    done = run("lab/benchmark_photos.py", "--weights", tmp_path / "none.safetensors", "--data",
               tmp_path, "--output", tmp_path / "out", *words)  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr


def test_a_stage_that_fails_stops_the_recipe(tmp_path):
    done = run("lab/train_default.py", "--photos", tmp_path / "nowhere", "--imagenet", "x.pth",
               "--output", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "stopped, exit code 2" in done.stdout

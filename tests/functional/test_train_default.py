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

from comics.data.synthetic import draw_scene
from comics.evaluation.verdict_figures import SIZES
from comics.inference.predictor import Predictor
from comics.modeling.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]
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
def test_the_recipe_makes_a_model_and_its_figures(tmp_path):
    write_photos(tmp_path / "photos")
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "imagenet.pth")
    output = tmp_path / "out"
    words = ["--photos", tmp_path / "photos", "--imagenet", tmp_path / "imagenet.pth",
             "--output", output, "--train-images", "10", "--iterations", "1"]  # fmt: skip
    done = run("train_default.py", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shipped = read_weights(output / "default.safetensors")
    assert shipped.metadata["temperature_fitted_on"].startswith("val of 0")
    digests = json.loads(shipped.metadata["detector_data_sha256"])
    assert len(digests) == 4  # three of train, one of val
    assert (output / "default.safetensors").stat().st_size < 20e6
    halves = [v.dtype for k, v in shipped.state.items() if v.ndim > 1 and v.is_floating_point()]
    assert set(halves) == {torch.float16}
    predictor = Predictor.from_file(output / "default.safetensors", "cpu")
    assert {p.dtype for p in predictor.model.parameters()} == {torch.float32}
    figures = json.loads((output / "figures/figures.json").read_text())["figures"]
    assert all(f"test_dev, {size}" in figures for size in SIZES)
    assert "test_dev, jpeg 50" in figures
    stamp = (output / "default.safetensors").stat().st_mtime_ns
    again = run("train_default.py", *words)
    assert again.returncode == 0
    assert "$ python" not in again.stdout
    assert (output / "default.safetensors").stat().st_mtime_ns == stamp


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
    done = run("benchmark_photos.py", "--weights", tmp_path / "none.safetensors", "--data",
               tmp_path, "--output", tmp_path / "out", *words)  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr


def test_a_stage_that_fails_stops_the_recipe(tmp_path):
    done = run("train_default.py", "--photos", tmp_path / "nowhere", "--imagenet", "x.pth",
               "--output", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "stopped, exit code 2" in done.stdout

"""The model that comes with the package: it is whole, small, and right about photos of real people.

The photos are those of ../shared/samples; how many faces they show is in their names, and none of
them is forged.
"""

import json

import numpy as np
import pytest
import torch

import comics
from comics.cli import main
from comics.config import load_config_text
from comics.data.images import read_image
from comics.inference.default_weights import SHIPPED
from comics.modeling.weights import read_weights

LARGEST_FILE = 20e6  # bytes: the package must stay light
FACES = {
    "group_5people.jpg": 5,
    "meeting_group.jpeg": 5,
    "pilots_3faces.jpg": 3,
    "two_women.jpg": 2,
    "single_angry.jpg": 1,
    "single_man.jpg": 1,
    "single_neutral.jpeg": 1,
    "single_surprised.jpeg": 1,
    "single_woman.jpg": 1,
}


# What goes wrong, as the model card says: faces in profile or turned down; two false alarms
MISSED, CALLED_FORGED = {"group_5people.jpg": 3}, {"meeting_group.jpeg": 2}


@pytest.fixture(autouse=True)
def no_other_model(monkeypatch):
    monkeypatch.delenv("COMICS_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def predictor():
    return comics.load(device="cpu")


def test_the_file_is_small_calibrated_and_says_what_it_is():
    assert SHIPPED.stat().st_size < LARGEST_FILE
    file = read_weights(SHIPPED)
    cfg = load_config_text(file.metadata["config"])
    assert cfg.MODEL.META_ARCHITECTURE == "FaceForensics"
    assert 0.5 <= cfg.TEST.FAKE_THRESH < 1
    assert float(file.metadata["temperature"]) > 0
    assert file.metadata["temperature_fitted_on"].startswith("val ")
    assert file.metadata["detector_git_revision"]
    assert all(torch.isfinite(v).all() for v in file.state.values() if v.is_floating_point())


def test_faces_of_the_samples_are_found_and_hardly_any_called_forged(predictor, shared_dir):
    for name, count in FACES.items():
        faces = predictor(shared_dir / "samples" / name)
        assert count - MISSED.get(name, 0) <= len(faces) <= count, name
        assert int(faces.labels.sum()) <= CALLED_FORGED.get(name, 0), name


def test_nothing_is_found_where_nothing_is(predictor):
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 320 * 240 * 3).reshape(240, 320, 3).astype(np.uint8)
    for image in (smooth, rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)):
        assert len(predictor.predict([image])[0]) == 0


def test_detect_needs_no_other_model(tmp_path, shared_dir):
    photo = shared_dir / "samples" / "two_women.jpg"
    assert main(["detect", "--output", str(tmp_path / "out"), str(photo)]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    assert len(results["results"]) == 2
    height, width = read_image(photo).shape[:2]
    for face in results["results"]:
        assert 0 <= face["fake_probability"] <= 1
        x, y, w, h = face["bbox"]
        assert min(x, y) >= 0 and x + w <= width + 1 and y + h <= height + 1

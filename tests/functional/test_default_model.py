"""The model that comes with the package: it is whole, small, and right about photos of real people.

The photos are those of ../shared/samples; how many faces they show is in their names, and none of
them is forged.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import comics
from comics.cli import main
from comics.config import load_config_text
from comics.data.images import read_image
from comics.inference.default_weights import SHIPPED
from comics.inference.doubt import Familiarity
from comics.inference.knowledge import Knowledge
from comics.modeling.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]

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


# What goes wrong, as the model card says: faces in profile or turned down
MISSED = {"group_5people.jpg": 3}


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
    assert "at most 5%" in file.metadata["temperature_fitted_on"]
    knowledge = Knowledge.from_metadata(file.metadata, SHIPPED)
    assert "StyleGAN faces" in knowledge.trained_on and knowledge.not_trained_on
    assert "research" in knowledge.rights and (ROOT / knowledge.card).is_file()
    assert Familiarity.from_metadata(file.metadata, SHIPPED) is not None
    assert cfg.TEST.UNCLEAR.BELOW > 0 and cfg.TEST.UNCLEAR.MAX_BLOCKINESS > 1
    assert file.metadata["detector_git_revision"]
    assert all(torch.isfinite(v).all() for v in file.state.values() if v.is_floating_point())


def test_faces_of_the_samples_are_found_and_none_called_forged(predictor, shared_dir):
    for name, count in FACES.items():
        faces = predictor(shared_dir / "samples" / name)
        assert count - MISSED.get(name, 0) <= len(faces) <= count, name
        assert "fake" not in faces.verdicts, name


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

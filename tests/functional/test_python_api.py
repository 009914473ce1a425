"""``comics.load`` and what README shows of it, with a tiny model of random weights."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import comics
from comics.api import MediaPredictor
from comics.found_faces import FoundFaces
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("FCOS")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_weights(path, build_model(cfg).state_dict(), cfg, {"iteration": "0"})
    return path


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (90, 110, 3), dtype=np.uint8)


def test_importing_comics_is_quick():
    code = (
        "import comics, sys; comics.load; "
        "assert not {'torch', 'numpy', 'PIL', 'av', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_and_call(weights, image, tmp_path):
    predictor = comics.load(weights, device="cpu")
    assert isinstance(predictor, MediaPredictor)
    faces = predictor(image)
    (expected,) = predictor.predict([image])
    assert len(faces) and torch.equal(faces.boxes, expected.boxes)
    assert torch.equal(faces.fake_probability, expected.fake_probability)
    Image.fromarray(image).save(tmp_path / "photo.png")
    found = predictor([tmp_path / "photo.png", image])
    assert all(isinstance(one, FoundFaces) for one in found)
    assert [one.file_name for one in found] == [str(tmp_path / "photo.png"), ""]
    torch.testing.assert_close(found[0].boxes, found[1].boxes)
    html = faces._repr_html_()
    assert html.startswith('<img src="data:image/jpeg;base64,') and "<table>" in html


def test_options_reach_the_predictor(weights):
    predictor = comics.load(str(weights), "cpu", score_threshold=0.9, fake_threshold=0.25)
    assert (predictor.rule.score_threshold, predictor.rule.fake_threshold) == (0.9, 0.25)
    with pytest.raises(ValueError, match="fake_threshold"):
        comics.load(weights, "cpu", fake_threshold=2)
    with pytest.raises(TypeError, match="colour"):
        comics.load(weights, "cpu", colour="blue")


def test_the_default_model(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("COMICS_WEIGHTS", str(weights))
    assert comics.load(device="cpu").provenance["weights"] == weights.name
    monkeypatch.delenv("COMICS_WEIGHTS")
    monkeypatch.setattr("comics.inference.default_weights.SHIPPED", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="COMICS_WEIGHTS"):
        comics.load()
    with pytest.raises(FileNotFoundError, match="none"):
        comics.load(tmp_path / "none.safetensors")

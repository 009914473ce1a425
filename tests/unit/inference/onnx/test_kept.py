"""The runtime of a model file: ONNX files that are made at the first use, and kept."""

import logging

import numpy as np
import pytest
import torch

from comics.files import file_sha256
from comics.inference.load import load_predictor
from comics.inference.predictor import Predictor
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights
from comics.pipeline import combine_files

pytest.importorskip("onnx", reason="exporting needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="exported models need ONNX Runtime")

from comics.inference.onnx import export  # noqa: E402
from comics.inference.onnx.predictor import OnnxPredictor  # noqa: E402

FACE = ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.ENCODER", "SmallResNet",
        "MODEL.FACE.METHOD", "CrossEntropy", "MODEL.FACE.CROP_SIZE", "32"]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    """A model file of a detector and a face method, of random weights."""
    from comics.config import load_config

    folder = tmp_path_factory.mktemp("weights")
    for name, cfg in (("d", finding_config("FCOS")), ("f", load_config(overrides=FACE))):
        torch.manual_seed(0)
        save_weights(folder / f"{name}.safetensors", build_model(cfg).state_dict(), cfg, {})
    pair = combine_files(folder / "d.safetensors", folder / "f.safetensors")
    path = folder / "joined.safetensors"
    save_weights(path, pair.state, pair.cfg, {**pair.metadata, "temperature": "1.5"})
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMICS_RUNTIME")
    return tmp_path / "cache" / "onnx"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)


def test_it_says_the_same_names_the_model_file_and_is_made_once(weights, cache, image, monkeypatch):
    said = []
    ours = load_predictor(weights, runtime="onnx", report=said.append, fake_threshold=0.4)
    assert isinstance(ours, OnnxPredictor)
    assert "joined.safetensors" in said[0] and len(said) > 2
    theirs = load_predictor(weights, "cpu", runtime="torch", fake_threshold=0.4)
    assert type(theirs) is Predictor
    (found,), (wanted,) = ours.predict([image]), theirs.predict([image])
    assert len(found) == len(wanted) > 0
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.fake_probability, wanted.fake_probability, rtol=0, atol=1e-4)
    told = ours.provenance
    assert told["weights_sha256"] == file_sha256(weights)
    assert {k: v for k, v in told.items() if k != "onnxruntime"} == theirs.provenance
    assert ours.has_heat_maps
    maps, windows = ours.heat_maps(image, wanted)
    expected = theirs.heat_maps(image, wanted)
    torch.testing.assert_close(maps, expected[0])
    assert torch.equal(windows, expected[1])
    monkeypatch.setattr(export, "export_model", None)  # it is not needed again
    assert isinstance(load_predictor(weights), OnnxPredictor)  # auto, where there is no GPU
    (folder,) = cache.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["model.face.onnx", "model.onnx"]


@pytest.mark.parametrize("name", ["model.onnx", "model.face.onnx"])
def test_damaged_files_are_made_again(weights, cache, name):
    load_predictor(weights, runtime="onnx")
    (path,) = cache.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:1000])
    said = []
    assert isinstance(load_predictor(weights, runtime="onnx", report=said.append), OnnxPredictor)
    assert said and path.stat().st_size > 1000


def test_auto_is_pytorch_where_onnx_runtime_cannot(weights, cache, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise ValueError("no such operator")

    monkeypatch.setattr(export, "export_model", fails)
    with caplog.at_level(logging.INFO, "comics"):
        assert type(load_predictor(weights)) is Predictor
    assert "no such operator" in caplog.text
    with pytest.raises(ValueError, match="no such operator"):
        load_predictor(weights, runtime="onnx")


def test_auto_is_pytorch_where_it_is_asked_for_or_onnx_is_absent(weights, cache, monkeypatch):
    assert type(load_predictor(weights, compiled=False, amp=True)) is Predictor
    monkeypatch.setattr("comics.inference.load.FOR_ONNX", ("onnx", "no_such_package"))
    assert type(load_predictor(weights)) is Predictor
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "one of auto, torch, onnx"),
        ({"runtime": "onnx", "device": "cuda"}, "for the CPU"),
        ({"runtime": "onnx", "amp": True}, "amp needs PyTorch"),
    ],
)
def test_what_cannot_be_is_told(weights, cache, options, message):
    with pytest.raises(ValueError, match=message):
        load_predictor(weights, **options)


def test_an_absent_model_file_is_named(cache, tmp_path):
    for runtime in ("auto", "onnx"):
        with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
            load_predictor(tmp_path / "none.safetensors", runtime=runtime)


def test_an_onnx_file_does_not_run_in_pytorch(tmp_path):
    with pytest.raises(ValueError, match="does not run in PyTorch"):
        load_predictor(tmp_path / "model.onnx", runtime="torch")

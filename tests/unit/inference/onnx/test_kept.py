"""The runtime of a model file: ONNX files that are made at the first use, and kept."""

import importlib.util
import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from comics.files import file_sha256
from comics.inference import load
from comics.inference.load import load_predictor
from comics.inference.predictor import Predictor
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights
from comics.pipeline import combine_files

onnx = pytest.importorskip("onnx", reason="exporting needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="exported models need ONNX Runtime")

from comics.inference.onnx import export, kept  # noqa: E402
from comics.inference.onnx.predictor import OnnxPredictor  # noqa: E402

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
PACKAGE = {"onnx": "onnxruntime", "openvino": "openvino"}
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


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request, monkeypatch):
    """Each runtime of ONNX files; "auto" knows no other."""
    if request.param == "openvino" and not HAS_OPENVINO:
        pytest.skip("OpenVINO is not installed")
    monkeypatch.setattr(load, "QUICKEST", (request.param,))
    return request.param


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)


def test_it_says_the_same_names_the_model_file_and_is_made_once(
    weights, cache, image, monkeypatch, runtime
):
    said = []
    ours = load_predictor(weights, runtime=runtime, report=said.append, fake_threshold=0.4)
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
    assert {k: v for k, v in told.items() if k != PACKAGE[runtime]} == theirs.provenance
    assert ours.has_heat_maps
    maps, windows = ours.heat_maps(image, wanted)
    expected = theirs.heat_maps(image, wanted)
    torch.testing.assert_close(maps, expected[0])
    assert torch.equal(windows, expected[1])
    monkeypatch.setattr(export, "export_model", None)  # it is not needed again
    assert isinstance(load_predictor(weights), OnnxPredictor)  # auto, where there is no GPU
    (folder,) = cache.iterdir()
    record = f"{PACKAGE[runtime]}-{told[PACKAGE[runtime]]}.json"
    assert sorted(p.name for p in folder.iterdir()) == ["model.face.onnx", "model.onnx", record]


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """Files of ONNX Runtime, made once for all tests that begin with some."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMICS_CACHE", str(folder))
        load_predictor(weights, runtime="onnx")
    return folder / "onnx"


@pytest.fixture
def kept_files(made, cache, monkeypatch):
    """The folder of kept files; what makes them again copies those."""
    (source,) = made.iterdir()
    folder = cache / source.name
    shutil.copytree(source, folder)

    def copy(weights, path, report, runtime):
        shutil.rmtree(folder)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.json"))
        return {"model.onnx": 1e-6, "model.face.onnx": 1e-6}

    monkeypatch.setattr(kept, "_make", copy)
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "model.face.onnx"])
def test_damaged_files_are_made_again(weights, kept_files, name):
    path = kept_files / name
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    said = []
    assert isinstance(load_predictor(weights, runtime="onnx", report=said.append), OnnxPredictor)
    assert "making ONNX files" in said[0] and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("key", "value"), [("weights_sha256", "another model's"), ("version", "another version's")]
)
def test_files_of_another_model_or_version_are_made_again(weights, kept_files, key, value):
    path = kept_files / "model.onnx"
    changed = onnx.load(path)
    properties = {p.key: p.value for p in changed.metadata_props} | {key: value}
    del changed.metadata_props[:]
    onnx.helper.set_model_props(changed, properties)
    onnx.save(changed, path)
    said = []
    load_predictor(weights, runtime="onnx", report=said.append)
    assert "making ONNX files" in said[0]
    assert value not in {p.value for p in onnx.load(path).metadata_props}


def test_a_version_of_a_runtime_that_is_new_to_the_files_is_compared_first(
    weights, kept_files, runtime, caplog
):
    for record in kept_files.glob("*.json"):
        record.unlink() if runtime == "openvino" else record.write_text("{broken")
    said = []
    load_predictor(weights, runtime=runtime, report=said.append)
    assert len(said) == 1 and "comparing" in said[0]
    (record,) = kept_files.glob(f"{PACKAGE[runtime]}-*.json")
    noted = json.loads(record.read_text())
    assert set(noted) == {"model.onnx", "model.face.onnx"} and max(noted.values()) < 1e-4
    load_predictor(weights, runtime=runtime, report=said.append)
    assert len(said) == 1
    record.write_text(json.dumps({"model.onnx": 0.01}))
    with pytest.raises(ValueError, match=r"differs by 1\.0e-02"):
        load_predictor(weights, runtime=runtime)
    with caplog.at_level(logging.INFO, "comics"):
        assert type(load_predictor(weights)) is Predictor
    assert "differs by" in caplog.text


def test_a_wrong_threshold_makes_nothing_again(weights, kept_files):
    said = []
    with pytest.raises(ValueError, match="score_threshold"):
        load_predictor(weights, runtime="onnx", score_threshold=2.0, report=said.append)
    assert not said


def test_a_picture_gets_the_same_alone_and_beside_others(weights, kept_files, runtime):
    predictor = load_predictor(weights, runtime=runtime, score_threshold=0.01)
    generator = np.random.default_rng(1)
    sizes = [(90, 110), (64, 200), (90, 110)]
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = [predictor.predict([image])[0] for image in images]
    assert sum(map(len, alone)) > 3
    # In a process that has seen other sizes meanwhile too
    for found in (predictor.predict(images), predictor.predict(images[::-1])[::-1]):
        for one, other in zip(found, alone, strict=True):
            for name in ("boxes", "scores", "labels", "fake_probability"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


UNUSED = ("torchvision", "timm", "torch._dynamo", "matplotlib", "scipy", "sklearn", "supervision",
          "onnx", "comics.modeling.detectors.mask_rcnn", "comics.data.forgery")  # fmt: skip


def test_a_start_imports_only_what_it_needs(weights, kept_files, image, tmp_path):
    """A photo takes a third of a second, and each of those packages as long or longer to import."""
    (expected,) = load_predictor(weights, runtime="onnx").predict([image])
    np.save(tmp_path / "image.npy", image)
    program = (
        "import sys, json, numpy; from comics.inference.load import load_predictor\n"
        "import comics.commands.processing, comics.runs.run, comics.pages.run_report\n"
        "predictor = load_predictor(sys.argv[1], 'cpu', 'onnx')\n"
        "(found,) = predictor.predict([numpy.load(sys.argv[2])])\n"
        f"loaded = sorted(set({UNUSED!r}) & set(sys.modules))\n"
        "import torchvision\n"  # whose operators are loaded already
        "(again,) = predictor.predict([numpy.load(sys.argv[2])])\n"
        "assert again.boxes.equal(found.boxes)\n"
        "print(json.dumps([loaded, found.boxes.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, weights, tmp_path / "image.npy"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded, boxes = json.loads(done.stdout)
    assert loaded == []
    assert boxes == expected.boxes.tolist()


def test_auto_is_pytorch_where_onnx_runtime_cannot(weights, cache, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise ValueError("no such operator")

    monkeypatch.setattr(export, "export_model", fails)
    monkeypatch.setattr(load, "QUICKEST", ("onnx",))
    with caplog.at_level(logging.INFO, "comics"):
        assert type(load_predictor(weights)) is Predictor
    assert "no such operator" in caplog.text
    with pytest.raises(ValueError, match="no such operator"):
        load_predictor(weights, runtime="onnx")


def test_auto_is_pytorch_where_it_is_asked_for_or_onnx_is_absent(weights, cache, monkeypatch):
    assert type(load_predictor(weights, compiled=False, amp=True)) is Predictor
    missing = dict.fromkeys(PACKAGE, ("onnx", "no_such_package"))
    monkeypatch.setattr("comics.inference.load.PACKAGES", missing)
    assert type(load_predictor(weights)) is Predictor
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "one of auto, torch, onnx, openvino"),
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

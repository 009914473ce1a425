"""tools/export_onnx.py, and what its file is for: comics detect."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comics.config import load_config
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

for needed in ("onnx", "onnxruntime"):
    pytest.importorskip(needed, reason="exporting needs the extra 'onnx'")

TOOL = Path(__file__).resolve().parents[2] / "tools" / "export_onnx.py"
FACE = [
    "MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.ENCODER", "SmallResNet",
    "MODEL.FACE.CROP_SIZE", "32",
]  # fmt: skip


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("export_onnx", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_model(path, cfg):
    torch.manual_seed(0)
    save_weights(path, build_model(cfg).state_dict(), cfg, {})
    return path


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    return save_model(
        tmp_path_factory.mktemp("face") / "dcl.safetensors", load_config(overrides=FACE)
    )


def test_writes_beside_the_model_file_and_says_what(tool, face, capsys):
    assert tool.main([str(face)]) == 0
    written = face.with_suffix(".onnx")
    assert written.is_file()
    line = capsys.readouterr().out.strip().splitlines()[-1]
    size = written.stat().st_size / 1e6
    assert line.startswith(f"{written}: {size:.1f} MB, largest difference ")
    assert float(line.rsplit(" ", 1)[1]) < 1e-4


def test_a_difference_above_the_tolerance_is_1(tool, face, tmp_path, capsys):
    output = tmp_path / "model.onnx"
    assert tool.main([str(face), "--output", str(output), "--tolerance", "-1"]) == 1
    assert "model.onnx differs from the model by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unusable_arguments_are_2_and_an_unwritable_output_1(tool, face, tmp_path, capsys):
    assert tool.main([str(tmp_path / "absent.safetensors")]) == 2
    assert "no model file at" in capsys.readouterr().err
    (tmp_path / "text.safetensors").write_text("text")
    assert tool.main([str(tmp_path / "text.safetensors")]) == 2
    assert "text.safetensors is not a readable" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert tool.main([str(face), "--output", str(tmp_path / "file" / "model.onnx")]) == 1
    assert "the output cannot be written" in capsys.readouterr().err


def test_missing_packages_are_named(tool, face, monkeypatch, capsys):
    monkeypatch.setattr("comics.commands.export.NEEDED", ("onnx", "no_such_package"))
    assert tool.main([str(face)]) == 2
    assert "no_such_package not found: pip install" in capsys.readouterr().err


@pytest.mark.slow
def test_comics_detect_takes_the_file(tool, tmp_path, capsys, finding_config):
    from comics.cli import main

    weights = save_model(tmp_path / "model.safetensors", finding_config("BlendMask"))
    assert tool.main([str(weights)]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    results = {}
    for suffix in (".safetensors", ".onnx"):
        output = tmp_path / suffix[1:]
        arguments = ["detect", "--weights", str(weights.with_suffix(suffix)), "--device", "cpu"]
        assert main([*arguments, "--output", str(output), str(tmp_path / "photo.png")]) == 0
        results[suffix] = json.loads((output / "results.json").read_text())
    ours, theirs = results[".onnx"]["results"], results[".safetensors"]["results"]
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    heat = ["detect", "--weights", str(weights.with_suffix(".onnx")), "--heat-maps", "--output"]
    capsys.readouterr()
    assert main([*heat, str(tmp_path / "heat"), str(tmp_path / "photo.png")]) == 2
    assert "heat-maps" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_model_is_exported_and_says_the_same(tool, tmp_path, capsys):
    from comics.inference.default_weights import SHIPPED
    from comics.inference.load import load_predictor

    weights = SHIPPED
    if not weights.is_file():
        pytest.skip("no model comes with this checkout")
    output = tmp_path / "shipped.onnx"
    assert tool.main([str(weights), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    for name in ("shipped.face.onnx", "shipped.onnx"):
        assert f"{name}: tracing" in said and f"{name}: comparing with PyTorch" in said
    ours, theirs = (load_predictor(path, "cpu") for path in (output, weights))
    rng = np.random.default_rng(0)
    for size in ((240, 320), (417, 295)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        tensor = [torch.from_numpy(image).permute(2, 0, 1)]
        with torch.no_grad():
            expected = theirs.model.detector(tensor)
        (found,), (wanted,) = ours.model.detector(tensor), expected
        assert len(found) == len(wanted)
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)

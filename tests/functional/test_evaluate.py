"""tools/evaluate.py as it is used: files in, figures, reports and exit codes out."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "evaluate.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("evaluate_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def rle_of(x, y):
    bitmap = np.zeros((64, 96), dtype=np.uint8, order="F")
    bitmap[y : y + 24, x : x + 20] = 1
    return {"size": [64, 96], "counts": coco_mask.encode(bitmap)["counts"].decode()}


@pytest.fixture
def files(tmp_path):
    """Three images of two faces; results that find all of them, one as the other class."""
    faces, results = [], []
    for image in range(3):
        pixels = np.full((64, 96, 3), 40 * image + 60, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{image}.png")
        for place in range(2):
            face = {"image_id": image, "category_id": place, "bbox": [10 + 45 * place, 20, 20, 24]}
            face["segmentation"] = rle_of(10 + 45 * place, 20)
            faces.append(face | {"id": len(faces) + 1, "area": 480, "iscrowd": 0})
            called = place if (image, place) != (2, 0) else 1
            results.append(face | {"category_id": called, "score": 0.9 - 0.1 * len(results)})
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(3)],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": faces,
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    return tmp_path


def test_results_against_a_ground_truth(main, files, capsys):
    report = files / "out"
    words = ["--ground-truth", files / "gt.json", "--results", files / "dt.json"]
    code = main([*map(str, words), "--report", str(report), "--title", "A test"])
    assert code == 0
    assert {p.name for p in report.iterdir()} >= {"report.html", "report.md", "figures.json"}
    figures = json.loads((report / "figures.json").read_text())["figures"]
    # Real: two of three found. Fake: right, right, wrong, right
    assert figures["bbox/AP50/Real"] == pytest.approx(67 / 101, abs=1e-9)
    assert figures["bbox/AP50/Fake"] == pytest.approx((67 + 34 * 3 / 4) / 101, abs=1e-9)
    assert figures["bbox/AP50_agnostic"] == pytest.approx(1)
    assert "**segm**" in capsys.readouterr().out


def test_one_bad_results_file_of_two(main, files, capsys):
    bad = files / "bad.json"
    bad.write_text('[{"image_id": 77}]')
    words = ["--ground-truth", files / "gt.json", "--results", bad, files / "dt.json"]
    assert main([*map(str, words), "--report", str(files / "out")]) == 3
    shown = capsys.readouterr()
    assert "bad.json" in shown.err and "image 77" in shown.err and "**bbox**" in shown.out
    assert (files / "out" / "1_dt" / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "dt.json"], "needs --ground-truth"),
        (["--ground-truth", "none.json", "--results", "dt.json"], "none.json"),
        (["--ground-truth", "dt.json", "--results", "dt.json"], "must be a COCO object"),
        (["--predictions", "none.csv"], "none.csv"),
        (["--tables", "none.json"], "none of the files"),
        (["--weights", "none.safetensors"], "no model file"),
        (["--tables", "a", "--method", "x"], "belong together"),
        (["--weights", "gt.json", "--robustness", "jpg"], "no corruption named 'jpg'"),
    ],
)
def test_unusable_arguments(main, files, capsys, monkeypatch, words, message):
    monkeypatch.chdir(files)
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written(main, files, capsys):
    (files / "taken").write_text("a file, no folder")
    words = ["--ground-truth", files / "gt.json", "--results", files / "dt.json"]
    assert main([*map(str, words), "--report", str(files / "taken")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_predictions_and_tables(main, files, capsys):
    rows = ["label,fake_probability,dataset,method,video,frame"]
    rng = np.random.default_rng(0)
    for i in range(40):
        p = float(np.clip(rng.normal(0.3 + 0.4 * (i % 2), 0.2), 0, 1))
        rows.append(f"{i % 2},{p:.4f},FF,{'DF' if i % 2 else 'real'},v{i // 4},{i % 4}")
    (files / "p.csv").write_text("\n".join(rows))
    names = ["--method", "DCL", "--trained-on", "FF", "--tested-on", "FF"]
    words = ["--predictions", str(files / "p.csv"), "--by", "method", "--report"]
    assert main([*words, str(files / "faces"), *names]) == 0
    page = (files / "faces" / "report.html").read_text()
    assert page.count("<svg") == 2 and "http:" not in page.replace("http://www.w3.org", "")
    words = ["--tables", str(files / "faces" / "figures.json"), "--metrics", "AUC", "video/AUC"]
    assert main([*words, "--report", str(files / "table")]) == 0
    assert "| FF | DCL |" in capsys.readouterr().out
    assert (files / "table" / "table.csv").read_text().startswith("train,method")


@pytest.fixture
def weights(files):
    from comics.config import load_config
    from comics.modeling.build import build_model
    from comics.modeling.weights import save_weights

    quick = [
        "INPUT.MIN_SIZE_TEST",
        "64",
        "INPUT.MAX_SIZE_TEST",
        "96",
        "DATALOADER.NUM_WORKERS",
        "1",
    ]
    cfg = load_config(ROOT / "configs" / "Quickstart" / "comics_r18.yaml", quick)
    torch.manual_seed(0)
    path = files / "model.safetensors"
    save_weights(path, build_model(cfg).state_dict(), cfg, {"version": "test"})
    return path


@pytest.mark.slow
def test_a_model_on_a_set(main, files, weights, capsys):
    """An untrained model: figures are worthless, but every path is walked."""
    words = ["--weights", weights, "--dataset", files / "gt.json", "--report", files / "out"]
    words += ["--device", "cpu", "--robustness", "jpeg", "--", "TEST.IMS_PER_BATCH", "2"]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "| jpeg | 10 |" in shown
    content = json.loads((files / "out" / "figures.json").read_text())
    assert "robustness/jpeg 75/segm/AP" in content["figures"]
    assert len(content["provenance"]["weights sha256"]) == 64
    predictions = json.loads((files / "out" / "predictions.json").read_text())
    assert all(p["segmentation"]["size"] == [64, 96] for p in predictions)


@pytest.mark.slow
def test_an_image_that_cannot_be_read(main, files, weights, capsys):
    (files / "1.png").write_bytes(b"no image")
    words = ["--weights", weights, "--dataset", files / "gt.json", "--device", "cpu"]
    assert main([str(word) for word in words]) == 3
    assert "1 images could not be read" in capsys.readouterr().out


@pytest.mark.slow
def test_calibrating_stores_the_temperature(main, files, weights, monkeypatch, capsys):
    """Predictions are replaced by ones that are right two times of three, and sure."""
    from comics.evaluation import detector
    from comics.evaluation.metrics import evaluate
    from comics.modeling.weights import read_weights

    def predicted(*_, **__):
        truth = json.loads((files / "gt.json").read_text())
        results = [
            {"image_id": f["image_id"], "bbox": f["bbox"], "score": 0.9, "category_id": c}
            for f in truth["annotations"]
            for c in [f["category_id"] if f["image_id"] else 1 - f["category_id"]]
        ]
        return detector.EntryOutcome(evaluate(truth, results, ["bbox"]), None, [])

    monkeypatch.setattr(detector, "evaluate_entry", predicted)
    words = ["--weights", weights, "--dataset", files / "gt.json", "--calibrate", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    metadata = read_weights(weights).metadata
    # P of the class called is 0.9 / 0.95; to be right two times of three it should be 2/3
    sure = np.log(0.9 / 0.05)
    assert float(metadata["temperature"]) == pytest.approx(sure / np.log(2), rel=1e-3)
    assert metadata["temperature_fitted_on"].endswith("gt.json")
    assert "stored in" in capsys.readouterr().out


def test_evaluating_files_does_not_import_torch():
    code = "import sys, comics.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_runs():
    done = subprocess.run(
        [sys.executable, TOOL, "--help"], capture_output=True, text=True, check=True
    )
    assert "--robustness" in done.stdout and "Exit code" in done.stdout

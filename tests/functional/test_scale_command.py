"""comics scale as it is typed: beside comics detect, and what report and evaluate make of it."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comics.cli import main
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
RUN_ONLY = ("output", "heat_map", "timeline", "tracks_file")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("BlendMask")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_weights(path, build_model(cfg).state_dict(), cfg, {"iteration": "0"})
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "in"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for n in range(3):
        image = generator.integers(0, 255, (60 + 8 * n, 90, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{n}.png")
    (folder / "3.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory, weights, pictures):
    """The outputs of a job, which failed for one file."""
    pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')
    folder = tmp_path_factory.mktemp("job") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        words = ["scale", str(pictures), "--output", str(folder), "--weights", str(weights)]
        assert main([*words, "--device", "cpu", "--shard-files", "2"]) == 3
    return folder


def test_rows_are_what_detect_says(output, weights, pictures, tmp_path):
    from comics.scale.reader import ScaleOutput

    words = ["detect", str(pictures), "--output", str(tmp_path), "--weights", str(weights)]
    assert main([*words, "--device", "cpu", "--no-media"]) == 3
    document = json.loads((tmp_path / "results.json").read_text())
    files = [{k: v for k, v in f.items() if k not in RUN_ONLY} for f in document["files"]]
    found = list(ScaleOutput(str(output)).files())
    assert [entry for entry, _ in found] == files
    faces = [face for _, images in found for _, faces in images for face in faces]
    own = [{k: v for k, v in face.items() if k != "image_id"} for face in document["results"]]
    assert faces == own and len(faces) > 3
    told = json.loads((output / "summary.json").read_text())
    assert told["provenance"] == document["provenance"]
    assert told["summary"].items() >= {**document["summary"], "complete": True}.items()


def test_report_reads_the_parquet(output, capsys):
    assert main(["report", str(output), "--title", "A job"]) == 0
    page = (output / "report.html").read_text()
    assert "A job" in page and "2.png" in page and "3.jpg" in page
    assert str(output / "report.html") in capsys.readouterr().out


def test_evaluate_reads_the_parquet(output, weights, pictures, tmp_path, capsys):
    """As it reads the same faces from a file of COCO results."""
    from comics.scale.reader import ScaleOutput

    images, annotations, results = [], [], []
    for n, (entry, parts) in enumerate(ScaleOutput(str(output)).files()):
        if entry["status"] != "ok":
            continue
        ((image, faces),) = parts
        images.append({"id": 10 + n, "file_name": Path(image["file_name"]).name,
                       "width": image["width"], "height": image["height"]})  # fmt: skip
        results += [{"image_id": 10 + n, **face} for face in faces]
        for face in faces[::2]:  # every other one is true
            annotations.append({"id": len(annotations), "image_id": 10 + n, "iscrowd": 0, "area": 9,
                                "category_id": face["category_id"], "bbox": face["bbox"],
                                "segmentation": face["segmentation"]})  # fmt: skip
    truth = {"images": images, "annotations": annotations,
             "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]}  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    figures = []
    for place in (output, tmp_path / "results.json"):
        words = ["evaluate", "--ground-truth", str(tmp_path / "truth.json"), "--results"]
        assert main([*words, str(place), "--iou-types", "bbox"]) == 0
        figures.append(capsys.readouterr().out.partition("\n\n")[2])
    assert figures[0] == figures[1] and "AP" in figures[0]
    truth["images"] = truth["images"][1:]
    truth["annotations"] = []
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert main([*words, str(output), "--iou-types", "bbox"]) == 2
    assert "0.png is no image of the ground truth" in capsys.readouterr().err


def test_a_folder_that_is_no_job_is_told(tmp_path, capsys):
    pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')
    (tmp_path / "files").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert "no files/part-*.parquet of comics scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "words"), [("ray", ["--engine", "ray"]), ("pyarrow", ["--engine", "local"])]
)
def test_a_package_that_is_absent_is_told_with_the_command_that_installs_it(
    package, words, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    absent = {package} if package != "ray" else {"ray"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a)
    )
    if package == "ray":
        pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')
    assert main(["scale", "in", "--output", str(tmp_path), *words]) == 2
    told = capsys.readouterr().err
    assert f'needs {package}: pip install "comics-forensics[scale]"' in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name an INPUT"),
        (["in", "--workers", "0"], "--workers must be 1 or more"),
        (["in", "--clip-seconds", "7", "--max-fps", "0.3"], "do not hold a whole number of frames"),
        (["absent"], "absent: no such file or folder"),
        (["s3://a:b@bucket/x"], "holds credentials"),
        (["--list", "absent.txt"], "the list absent.txt cannot be read"),
        (["in", "--weights", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_unusable_arguments(words, told, tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path[:0]]))
    (tmp_path / "in").mkdir()
    assert main(["scale", *words, "--output", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err

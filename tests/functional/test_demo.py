"""The demo with a tiny model of random weights: every stage runs, a second call does none twice."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comics.inference import default_weights
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
MODEL = [
    "MODEL.FACE.DETECTOR", "FCOS", "MODEL.FACE.METHOD", "CrossEntropy",
    "MODEL.FACE.ENCODER", "SmallResNet", "MODEL.FACE.CROP_SIZE", "32",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "6", "MODEL.FCOS.SCORE_THRESH_TEST", "0.0",
    "TEST.SCORE_THRESH", "0.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools/lab/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(0)
    cfg = finding_config("FaceForensics", *MODEL)
    save_weights(path, build_model(cfg).state_dict(), cfg, {})
    return path


def write_photos(folder, count):
    """Noise with one to three "faces" each; the faces' boxes in COCO's format."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "real"}]}
    for number in range(count):
        name = f"images/{number}.png"
        picture = rng.integers(60, 120, (96, 160, 3), dtype=np.uint8)
        for face in range(number % 3 + 1):
            x = 5 + 50 * face
            picture[20:70, x : x + 40] += 80
            content["annotations"].append(
                {"id": 10 * number + face, "image_id": number, "category_id": 0,
                 "bbox": [x, 20, 40, 50]}
            )  # fmt: skip
        Image.fromarray(picture).save(folder / name)
        content["images"].append({"id": number, "file_name": name, "width": 160, "height": 96})
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def place_of(name):
    """Where the hash puts a photo, in [0, 1): 0.8 to 0.9 is test-dev, as DEFAULT_RATIO says."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64


def outputs_of(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in [folder / "clip.mp4", *folder.glob("forged/images/*/*"),
                     *folder.glob("inference/media/*")]
    }  # fmt: skip


@pytest.mark.slow
def test_drawn_scenes_and_a_second_call(demo, weights, tmp_path, capfd):
    folder = tmp_path / "demo"
    words = ["--output", folder, "--photos", "none", "--pictures", "none", "--images", 2]
    words = [str(word) for word in [*words, "--weights", weights]]
    assert demo.main(words) == 0
    said = capfd.readouterr().out
    assert "$ python tools/make_dataset.py" in said and "$ python tools/infer.py" in said
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 + 6  # the astronauts, and five forged copies
    assert page.index("pilots_3faces.jpg") < page.index("nothing is forged")
    assert "drawn people are not what it is for" in page
    for target in ("report.html", "media/clip.mp4", "media/pilots_3faces.jpg"):
        assert f'href="inference/{target}"' in page
        assert (folder / "inference" / target).is_file()
    truth = json.loads((folder / "forged/test_dev.json").read_text())
    faces, forged = len(truth["annotations"]), sum(a["category_id"] for a in truth["annotations"])
    assert f"2 pictures with {faces} faces, {forged} of them forged; so few" in page
    numbers = re.findall(r'<td class="number">([^<]*)</td>', page)
    assert numbers and all(re.fullmatch(r"–|\d+\.\d", number) for number in numbers)

    before = outputs_of(folder)
    assert demo.main(words) == 0
    said = capfd.readouterr().out
    assert "0 images written, 2 found finished" in said
    assert "clip.mp4 is there already" in said
    assert outputs_of(folder) == before


@pytest.mark.slow
def test_photos_that_are_held_out(demo, weights, tmp_path):
    photos = write_photos(tmp_path / "photos", 60)
    more = tmp_path / "more"
    more.mkdir()
    Image.new("RGB", (64, 48)).save(more / "own.png")
    folder = tmp_path / "demo"
    words = ["--photos", photos, "--pictures", more, "--images", 2, "--weights", weights]
    assert demo.main([str(word) for word in ["--output", folder, *words]]) == 0
    chosen = json.loads((folder / "originals/annotations.json").read_text())["images"]
    assert len(chosen) == 2
    for image in chosen:
        assert 0.8 <= place_of(image["original"]) < 0.9
        assert int(Path(image["original"]).stem) % 3 + 1 >= 2  # faces
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 3 + 6
    assert page.count("in truth") == 2 + 6 and "own.png" in page
    assert "drawn" not in page


def test_figures_of_verdicts_made_up(demo):
    faces = [(1, 0, 0), (1, 1, 40), (2, 1, 0), (2, 0, 40)]  # image, label, x
    truth = {
        "images": [{"id": i, "file_name": f"images/{i}.jpg", "width": 100, "height": 50}
                   for i in (1, 2)],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "bbox": [x, 0, 30, 30],
             "area": 900, "iscrowd": 0}
            for n, (image, label, x) in enumerate(faces, 1)
        ],
    }  # fmt: skip
    said = [("a/1.jpg", 0.2, 0), ("a/1.jpg", 0.9, 41), ("a/2.jpg", 0.4, 1), ("a/2.jpg", 0.6, 70),
            ("own.jpg", 0.9, 0)]  # file, P(fake), x: the fourth meets no face  # fmt: skip
    results = {
        "provenance": {"score_threshold": 0.5, "fake_threshold": 0.5},
        "results": [
            {"file_name": name, "image_id": 7, "category_id": int(fake >= 0.5), "score": 0.9,
             "bbox": [x, 0, 30, 30], "fake_probability": fake}
            for name, fake, x in said
        ],
    }  # fmt: skip
    known = {"a/1.jpg": "1.jpg", "a/2.jpg": "2.jpg"}
    ((caption, rows),) = demo.figures(truth, results, known).items()
    assert caption.startswith("2 pictures with 4 faces, 2 of them forged")
    assert [(row["Faces"], row["x100"]) for row in rows] == [
        ("3 of 4", 75), ("1", None), ("1 of 2", 50), ("0 of 2", 0), ("of 3 found", 100),
    ]  # fmt: skip
    assert demo.true_labels(Path("a"), truth) == dict.fromkeys(
        (Path("a/images/1.jpg"), Path("a/images/2.jpg")), "in truth 2 faces, 1 forged"
    )


def test_no_model_file(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COMICS_WEIGHTS", raising=False)
    monkeypatch.setattr(default_weights, "SHIPPED", tmp_path / "absent")
    words = ["--output", str(tmp_path / "out")]
    assert demo.main(words) == 2
    assert "tools/lab/train_demo.py" in capsys.readouterr().err
    assert demo.main([*words, "--weights", "nowhere.safetensors"]) == 2
    assert "there is no model file nowhere.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_photos_that_cannot_be_used(demo, weights, tmp_path, capsys):
    words = ["--output", str(tmp_path / "out"), "--weights", str(weights), "--pictures", "none"]
    assert demo.main([*words, "--photos", str(tmp_path)]) == 2
    assert f"{tmp_path}: there is no annotations.json in it" in capsys.readouterr().err
    assert not 0.8 <= place_of("images/0.png") < 0.9
    photos = write_photos(tmp_path / "photos", 1)
    assert demo.main([*words, "--photos", str(photos)]) == 2
    assert "none falls into the tenth" in capsys.readouterr().err

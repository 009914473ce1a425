"""A run's faces as COCO annotations for other programs."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from comics.cli import main
from comics.ops.masks import bitmap_to_rle
from comics.runs.annotations import write_annotations
from comics.runs.results_reader import ResultsError

SIZE = (60, 80)


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return torch.from_numpy((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def face(image_id, category, **more):
    box = {"bbox": [10.5, 5.0, 21.0, 21.0], "score": 0.9, "fake_probability": 0.25}
    return {"image_id": image_id, "category_id": category, **box, **more}


@pytest.fixture
def run(tmp_path):
    """A folder with results.json: two pictures, a video's frame, four faces."""
    images = [
        {"id": 1, "file_name": "album/day/ä b.jpg", "width": SIZE[1], "height": SIZE[0]},
        {"id": 2, "file_name": "album/night/2.jpg", "width": SIZE[1], "height": SIZE[0]},
        {"id": 3, "file_name": "album/clip.mp4", "width": 80, "height": 60, "frame": 7},
    ]
    faces = [
        face(1, 0, segmentation=bitmap_to_rle(disc(21, 15, 10)), verdict="real"),
        face(1, 1),
        face(2, 1, segmentation=bitmap_to_rle(torch.zeros(SIZE, dtype=torch.bool))),
        face(3, 1),
    ]
    content = {"schema_version": "2.1", "results": faces, "images": images}
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_pycocotools_reads_what_was_found(run, capsys):
    assert main(["annotations", str(run)]) == 0
    said = capsys.readouterr().out
    assert "3 faces on 2 pictures" in said and "1 faces on frames of videos" in said
    coco = COCO(run / "annotations.json")
    assert [coco.imgs[i]["file_name"] for i in (1, 2)] == ["day/ä b.jpg", "night/2.jpg"]
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == {1: "real", 2: "fake"}
    first, second, third = (coco.anns[number] for number in (1, 2, 3))
    assert (first["category_id"], second["category_id"]) == (1, 2)
    assert first["attributes"] == {"score": 0.9, "fake_probability": 0.25, "verdict": "real"}
    drawn, wanted = coco.annToMask(first).astype(bool), disc(21, 15, 10).numpy()
    assert first["area"] == wanted.sum()
    # A polygon runs through the centres of the outermost pixels, which a rasteriser may leave out
    assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.85
    assert second["segmentation"] == [] and second["area"] == 21.0 * 21.0
    assert third["segmentation"] == [] and third["area"] == 0


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("bbox", [1, 2, 3], "face 1 cannot be read"),
        ("bbox", None, "face 1 cannot be read"),
        ("segmentation", {"size": [600, 800], "counts": "abc"}, "face 1 cannot be read"),
        ("category_id", "x", "face 1 cannot be read"),
    ],
)
def test_broken_runs_are_named_and_nothing_is_written(run, member, value, reason):
    content = json.loads((run / "results.json").read_text(encoding="utf-8"))
    content["results"][0][member] = value
    (run / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultsError, match=reason):
        write_annotations(run, run / "out.json")
    assert not (run / "out.json").exists()


def test_exit_codes(run, tmp_path, capsys):
    assert main(["annotations", str(tmp_path / "nowhere")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["annotations", str(run), "--output", str(run / "results.json" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_without_pictures_gives_empty_lists(tmp_path):
    (tmp_path / "results.json").write_text('{"results": [], "images": []}')
    assert write_annotations(tmp_path, tmp_path / "a.json").faces == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["images"], content["annotations"]) == ([], [])

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import comics.runs
from comics.data.custody.credentials import ContentCredentials
from comics.data.custody.facts import FileFacts
from comics.data.custody.metadata import PictureMetadata
from comics.runs.outputs import FileStatus, results_file, summarise, verdict_of
from comics.runs.records import ImageRecord
from comics.structures import FAKE, REAL, Faces

SIZE = (30, 40)
SCHEMA = json.loads((Path(comics.runs.__file__).parent / "results.schema.json").read_text())


def add_image(results, *args, **kwargs):
    record = ImageRecord.of(*args, **kwargs)
    return results.add_texts(record.image_text, record.face_texts)


def two_faces():
    masks = torch.zeros((2, *SIZE), dtype=torch.bool)
    masks[0, 5:15, 4:14] = True
    masks[1, 12:28, 20:38] = True
    return Faces(
        boxes=torch.tensor([[4.0, 5, 14, 15], [20.0, 12, 38, 28]]),
        image_size=SIZE,
        labels=torch.tensor([REAL, FAKE]),
        scores=torch.tensor([0.9, 0.8]),
        masks=masks,
        fake_probability=torch.tensor([0.1, 0.75]),
    )


TIME = "2026-01-02T03:04:05.678Z"
RUN = {"started": TIME, "ended": TIME, "versions": {"comics": "1"}, "parts": 1}


def write(path):
    with results_file(path, {"model": "test"}, RUN) as results:
        add_image(results, "a.jpg", two_faces())
        add_image(results, "b.jpg", Faces.empty(SIZE))
        add_image(results, "c.mp4", two_faces(), frame=5, time_s=0.2, track_ids=[7, 3])
        results.add_file(FileStatus("a.jpg", "image", "ok", "forged_face_found", 2, 1))
        results.add_file(FileStatus("b.jpg", "image", "ok", "no_face_found"))
        results.add_file(FileStatus("bad.jpg", "image", "failed", reason="empty"))
    return json.loads(path.read_text(encoding="utf-8"))


def test_document_follows_its_schema(tmp_path):
    document = write(tmp_path / "results.json")
    jsonschema.validate(document, SCHEMA)
    assert [image["id"] for image in document["images"]] == [1, 2, 3]
    assert document["images"][2]["frame"] == 5 and "frame" not in document["images"][0]
    assert [entry["image_id"] for entry in document["results"]] == [1, 1, 3, 3]
    assert [entry.get("track_id") for entry in document["results"]] == [None, None, 7, 3]
    assert document["summary"]["complete"] is True and document["summary"]["pending"] == 0
    assert document["files"][2] == {
        "file_name": "bad.jpg", "kind": "image", "status": "failed", "verdict": None,
        "faces": 0, "forged_faces": 0, "unclear_faces": 0, "reason": "empty",
    }  # fmt: skip


def test_document_of_an_empty_run(tmp_path):
    with results_file(tmp_path / "r.json", {}, RUN):
        pass
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["results"] == document["images"] == document["files"] == []


def test_masks_and_boxes_survive(tmp_path):
    document, faces = write(tmp_path / "results.json"), two_faces()
    for entry, mask, box in zip(document["results"][:2], faces.masks, faces.boxes, strict=True):
        assert (coco_mask.decode(entry["segmentation"]).astype(bool) == mask.numpy()).all()
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == box.tolist()


def test_pycocotools_reads_the_results(tmp_path):
    document, faces = write(tmp_path / "results.json"), two_faces()
    truth = COCO()
    truth.dataset = {
        "images": document["images"],
        "categories": document["categories"],
        "annotations": [
            {"id": i + 1, "image_id": image_id, "category_id": int(faces.labels[k]), "iscrowd": 0,
             "bbox": document["results"][k]["bbox"], "area": float(faces.masks[k].sum()),
             "segmentation": document["results"][k]["segmentation"]}
            for i, (image_id, k) in enumerate([(1, 0), (1, 1), (3, 0), (3, 1)])
        ],
    }  # fmt: skip
    truth.createIndex()
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(document["results"]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)


def test_the_schema_is_one_and_knows_every_member_of_a_status():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    members = asdict(FileStatus("a", "image", "ok")).keys() - {"facts"}
    facts = {field.name for field in fields(FileFacts)}
    assert members | facts == set(SCHEMA["$defs"]["file"]["properties"])
    for name, kind in (("metadata", PictureMetadata), ("c2pa", ContentCredentials)):
        assert {field.name for field in fields(kind)} == set(SCHEMA["$defs"][name]["properties"])


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": "1.0"},
        {"more": 1},
        {"results": [{"image_id": 1}]},
        {"files": [{"file_name": "a", "kind": "image", "status": "failed", "verdict": None,
                    "faces": 0, "forged_faces": 0, "unclear_faces": 0, "reason": None}]},
        {"files": [{"file_name": "a", "kind": "image", "status": "ok", "verdict": None,
                    "faces": 0, "forged_faces": 0, "unclear_faces": 0, "reason": None}]},
        {"files": [{"file_name": "a", "kind": "image", "status": "ok", "verdict": "no_face_found",
                    "faces": 0, "forged_faces": 0, "unclear_faces": 0, "reason": None,
                    "output": "../a.jpg"}]},
        {"images": [{"id": 1, "file_name": "v", "width": 1, "height": 1, "frame": 0}]},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_no_result(tmp_path, change):
    document = write(tmp_path / "results.json") | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_what_is_left_is_said(tmp_path):
    with results_file(tmp_path / "r.json", {}, RUN) as results:
        results.pending = 3
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["summary"]["complete"] is False and document["summary"]["pending"] == 3


def test_crops_are_named_face_by_face(tmp_path):
    with results_file(tmp_path / "r.json", {}, RUN) as results:
        add_image(results, "a.jpg", two_faces(), crops=["crops/a.1.jpg", "crops/a.2.jpg"])
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert [entry["crop"] for entry in document["results"]] == ["crops/a.1.jpg", "crops/a.2.jpg"]


def test_an_exception_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError), results_file(tmp_path / "r.json", {}, RUN) as results:
        add_image(results, "a.jpg", two_faces())
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_faces_without_masks(tmp_path):
    with results_file(tmp_path / "r.json", {}, RUN) as results:
        add_image(results, "a.jpg", replace(two_faces(), masks=None))
    assert "segmentation" not in json.loads((tmp_path / "r.json").read_text())["results"][0]


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        ([], "no_face_found"),
        (["real"] * 3, "no_forgery_found"),
        (["real", "fake", "unclear"], "forged_face_found"),
        (["real", "unclear"], "unclear"),
    ],
)
def test_no_face_is_not_no_forgery(verdicts, verdict):
    assert verdict_of(verdicts) == verdict


def test_summary_counts():
    files = [
        FileStatus("a", "image", "ok", "forged_face_found", 3, 1),
        FileStatus("b", "video", "partial", "no_forgery_found", 2, 0),
        FileStatus("c", "image", "failed", reason="x"),
    ]
    summary = summarise(files)
    assert summary == {
        "files": 3, "ok": 1, "partial": 1, "failed": 1, "no_face_found": 0, "no_forgery_found": 1,
        "unclear": 0,
        "forged_face_found": 1, "faces": 5, "forged_faces": 1, "unclear_faces": 0,
    }  # fmt: skip


def test_nothing_accumulates_in_memory(tmp_path):
    with results_file(tmp_path / "r.json", {}, RUN) as results:
        for number in range(300):
            add_image(results, "v.mp4", two_faces(), frame=number, time_s=number / 25)
        held = [v for v in vars(results).values() if isinstance(v, (list, dict, np.ndarray))]
        assert not any(held)
    assert len(json.loads((tmp_path / "r.json").read_text())["results"]) == 600

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from comics.inference.outputs import FileStatus, results_file, summarise, verdict_of
from comics.structures import FAKE, REAL, Faces

SIZE = (30, 40)
TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
VERDICT = {"enum": ["no_face_found", "all_faces_real", "forged_face_found", None]}
SCHEMA = {
    "type": "object",
    "required": ["schema_version", "provenance", "categories", "results", "images", "files",
                 "summary"],
    "additionalProperties": False,
    "properties": {
        "schema_version": {"const": "1.0"},
        "provenance": {"type": "object"},
        "categories": {"const": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]},
        "results": {"type": "array", "items": {
            "type": "object",
            "required": ["image_id", "file_name", "category_id", "bbox", "score",
                         "fake_probability"],
            "additionalProperties": False,
            "properties": {
                "image_id": COUNT, "file_name": TEXT, "category_id": {"enum": [0, 1]},
                "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4,
                         "maxItems": 4},
                "score": SHARE, "fake_probability": SHARE,
                "segmentation": {"type": "object", "required": ["size", "counts"]},
            }}},
        "images": {"type": "array", "items": {
            "type": "object",
            "required": ["id", "file_name", "width", "height"],
            "additionalProperties": False,
            "properties": {"id": COUNT, "file_name": TEXT, "width": COUNT, "height": COUNT,
                           "frame": COUNT, "time_s": {"type": "number"}}}},
        "files": {"type": "array", "items": {
            "type": "object",
            "required": ["file_name", "kind", "status", "verdict", "faces", "forged_faces",
                         "reason"],
            "additionalProperties": False,
            "properties": {
                "file_name": TEXT, "kind": {"enum": ["image", "video", "unknown"]},
                "status": {"enum": ["ok", "partial", "failed"]}, "verdict": VERDICT,
                "faces": COUNT, "forged_faces": COUNT, "reason": {"type": ["string", "null"]},
                "output": TEXT, "frames": COUNT, "analysed_frames": COUNT,
                "frames_with_faces": COUNT, "frames_with_forged_faces": COUNT}}},
        "summary": {"type": "object", "additionalProperties": COUNT},
    },
}  # fmt: skip


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


def write(path):
    with results_file(path, {"model": "test"}) as results:
        results.add_image("a.jpg", two_faces())
        results.add_image("b.jpg", Faces.empty(SIZE))
        results.add_image("c.mp4", two_faces(), frame=5, time_s=0.2)
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
    assert document["files"][2] == {
        "file_name": "bad.jpg", "kind": "image", "status": "failed", "verdict": None,
        "faces": 0, "forged_faces": 0, "reason": "empty",
    }  # fmt: skip


def test_document_of_an_empty_run(tmp_path):
    with results_file(tmp_path / "r.json", {}):
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


def test_an_exception_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError), results_file(tmp_path / "r.json", {}) as results:
        results.add_image("a.jpg", two_faces())
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_faces_without_masks(tmp_path):
    with results_file(tmp_path / "r.json", {}) as results:
        results.add_image("a.jpg", replace(two_faces(), masks=None))
    assert "segmentation" not in json.loads((tmp_path / "r.json").read_text())["results"][0]


@pytest.mark.parametrize(
    ("faces", "forged", "verdict"),
    [(0, 0, "no_face_found"), (3, 0, "all_faces_real"), (3, 1, "forged_face_found")],
)
def test_no_face_is_not_all_real(faces, forged, verdict):
    assert verdict_of(faces, forged) == verdict


def test_summary_counts():
    files = [
        FileStatus("a", "image", "ok", "forged_face_found", 3, 1),
        FileStatus("b", "video", "partial", "all_faces_real", 2, 0),
        FileStatus("c", "image", "failed", reason="x"),
    ]
    summary = summarise(files)
    assert summary == {
        "files": 3, "ok": 1, "partial": 1, "failed": 1, "no_face_found": 0, "all_faces_real": 1,
        "forged_face_found": 1, "faces": 5, "forged_faces": 1,
    }  # fmt: skip


def test_nothing_accumulates_in_memory(tmp_path):
    with results_file(tmp_path / "r.json", {}) as results:
        for number in range(300):
            results.add_image("v.mp4", two_faces(), frame=number, time_s=number / 25)
        held = [v for v in vars(results).values() if isinstance(v, (list, dict, np.ndarray))]
        assert not any(held)
    assert len(json.loads((tmp_path / "r.json").read_text())["results"]) == 600

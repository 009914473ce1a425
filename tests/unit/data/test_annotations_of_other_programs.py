"""Annotation files as people's tools write them: one set of rules for training and measuring."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from comics.data.coco import DatasetError, load_coco
from comics.data.coco_parser import parse_coco
from comics.data.validation import validate
from comics.evaluation import evaluate
from comics.evaluation.annotated_faces import ground_truth_of
from comics.evaluation.ground_truth import load_ground_truth

BIG = 2**64
SQUARE = [[2, 4, 12, 4, 12, 14, 2, 14]]


def content():
    return {
        "images": [{"id": 0, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 0, "bbox": [2, 4, 10, 10], "area": 100,
             "iscrowd": 0, "segmentation": copy.deepcopy(SQUARE)},
            {"id": 2, "image_id": 0, "category_id": 1, "bbox": [20, 4, 10, 10], "area": 100,
             "iscrowd": 0, "segmentation": [[20, 4, 30, 4, 30, 14]]},
        ],
    }  # fmt: skip


def write(path, data, encoding="utf-8"):
    path.write_bytes(json.dumps(data).encode(encoding))
    if not (path.parent / "a.png").exists():
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path.parent / "a.png")
    return path


REFUSED = {
    "text flag": ("annotations", {"iscrowd": "0"}, "annotations[0]"),
    "flag of 2": ("annotations", {"iscrowd": 2}, "annotations[0]"),
    "null flag": ("annotations", {"iscrowd": None}, "annotations[0]"),
    "list flag": ("annotations", {"iscrowd": []}, "annotations[0]"),
    "NaN area": ("annotations", {"area": float("nan")}, "annotations[0]"),
    "infinite area": ("annotations", {"area": float("inf")}, "annotations[0]"),
    "negative area": ("annotations", {"area": -1}, "annotations[0]"),
    "text area": ("annotations", {"area": "100"}, "annotations[0]"),
    "bool area": ("annotations", {"area": True}, "annotations[0]"),
    "text box": ("annotations", {"bbox": ["2", 4, 10, 10]}, "annotations[0]"),
    "bool box": ("annotations", {"bbox": [True, 4, 10, 10]}, "annotations[0]"),
    "null in the box": ("annotations", {"bbox": [2, None, 10, 10]}, "annotations[0]"),
    "infinite box": ("annotations", {"bbox": [2, 4, float("inf"), 10]}, "annotations[0]"),
    "annotation id of 65 bits": ("annotations", {"id": BIG}, "annotations[0]"),
    "annotation id of 2^63": ("annotations", {"id": 2**63}, "annotations[0]"),
    "bool annotation id": ("annotations", {"id": True}, "annotations[0]"),
    "annotation id twice": ("annotations", {"id": 2}, "annotations[1]"),
    "image id of 65 bits": ("images", {"id": BIG}, "images[0]"),
    "text image id": ("images", {"id": "0"}, "images[0]"),
    "fraction": ("images", {"id": 0.5}, "images[0]"),
    "text width": ("images", {"width": "40"}, "images[0]"),
    "width of 2^64": ("images", {"width": BIG}, "images[0]"),
    "width of 2^40": ("images", {"width": 2**40}, "images[0]"),
    "bool height": ("images", {"height": True}, "images[0]"),
    "half a character": ("images", {"file_name": "\ud800.png"}, "images[0]"),
    "number as name": ("images", {"file_name": 3}, "images[0]"),
    "category without a name": ("categories", {"name": None}, "categories[0]"),
    "category id of text": ("categories", {"id": "0"}, "categories[0]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_types_and_numbers_are_refused_with_their_place(fault, tmp_path):
    key, change, where = REFUSED[fault]
    data = content()
    data[key][0] |= change
    path = write(tmp_path / "faces.json", data)
    report = validate(path)
    assert not report.usable and not report.trainable
    messages = [str(f) for f in report.faults if f.severity == "error"]
    assert any(where in message and str(path) in message for message in messages), messages
    with pytest.raises(DatasetError, match="faces.json"):
        load_coco(path)


@pytest.mark.parametrize("text", ["", " \n", "[]", "null", "3", '{"images": 3, "annotations": []}'])
def test_what_is_no_object_is_refused(text, tmp_path):
    path = tmp_path / "faces.json"
    path.write_text(text)
    assert not validate(path).usable
    with pytest.raises(DatasetError, match="faces.json"):
        load_coco(path)


TAKEN = {
    "as it is": {},
    "bool flags": {"annotations": {"iscrowd": False}},
    "no flag": {"annotations": {"iscrowd": ...}},
    "null area": {"annotations": {"area": None}},
    "no area": {"annotations": {"area": ...}},
    "float ids": {"images": {"id": 0.0}, "annotations": {"id": 1.0}},
    "float sizes": {"images": {"width": 40.0, "height": 30.0}},
    "negative ids": {"annotations": {"id": -7}},
    "largest id": {"annotations": {"id": 2**63 - 1}},
    "no categories": {"categories": ...},
    "flat polygon": {"annotations": {"segmentation": SQUARE[0]}},
    "list of points": {"annotations": {"segmentation": [[[2, 4], [12, 4], [12, 14]]]}},
    "null in a polygon": {"annotations": {"segmentation": [[2, 4, None, 4, 12, 14]]}},
    "polygon of text": {"annotations": {"segmentation": [["2", 4, 12, 4, 12, 14]]}},
    "two points": {"annotations": {"segmentation": [[2, 4, 12, 14]]}},
    "no mask": {"annotations": {"segmentation": ...}},
    "mask of another size": {
        "annotations": {"segmentation": {"size": [BIG, 40], "counts": [1]}}
    },
    "mask of huge runs": {"annotations": {"segmentation": {"size": [30, 40], "counts": [BIG]}}},
    "box of another world": {"annotations": {"bbox": [1e300, 4, 1e300, 10]}},
    "box thinner than a float": {"annotations": {"bbox": [20, 4, 1e-9, 10]}},
    "box without width": {"annotations": {"bbox": [2, 4, 0, 10]}},
}  # fmt: skip


def changed(changes):
    data = content()
    for key, change in changes.items():
        if change is ...:
            del data[key]
            continue
        for name, value in change.items():
            if value is ...:
                del data[key][0][name]
            else:
                data[key][0][name] = value
    return data


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_called_usable_trains_and_can_be_measured_on(kind, tmp_path):
    path = write(tmp_path / "faces.json", changed(TAKEN[kind]))
    assert validate(path).trainable
    records = load_coco(path)
    faces = records[0].ground_truth()  # masks and boxes as tensors
    assert bool((faces.boxes[:, 2:] > faces.boxes[:, :2]).all())
    coco = parse_coco(path, None)
    truth = ground_truth_of(coco)
    assert len(truth) == len(records[0].faces)
    results = [
        {"image_id": 0, "category_id": coco.category_ids[face.label], "score": 0.9,
         "bbox": [face.box[0], face.box[1], face.box[2] - face.box[0], face.box[3] - face.box[1]],
         "segmentation": truth.rles[position] | {"counts": _text(truth.rles[position]["counts"])}}
        for position, face in enumerate(records[0].faces)
    ]  # fmt: skip
    figures = evaluate(truth, results).flat()
    assert figures["bbox/AP"] == pytest.approx(1) and figures["segm/AP"] == pytest.approx(1)


def _text(counts):
    return counts.decode() if isinstance(counts, bytes) else counts


def test_both_readers_give_the_same_of_a_sound_file(tmp_path):
    path = write(tmp_path / "faces.json", content())
    ours, coco = ground_truth_of(parse_coco(path, None)), load_ground_truth(path)
    for name in ("image_ids", "image_sizes", "category_ids", "ids", "image", "category", "crowd"):
        assert np.array_equal(getattr(ours, name), getattr(coco, name)), name
    assert np.allclose(ours.boxes, coco.boxes) and np.allclose(ours.areas, coco.areas)
    assert ours.category_names == coco.category_names
    assert [mask["counts"] for mask in ours.rles] == [mask["counts"] for mask in coco.rles]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_files_from_windows_editors(encoding, tmp_path):
    path = write(tmp_path / "faces.json", content(), encoding)
    assert not validate(path).faults
    assert len(load_ground_truth(path)) == 2
    results = tmp_path / "results.json"
    results.write_bytes(json.dumps([]).encode(encoding))
    assert evaluate(path, results).flat()["bbox/AP"] == 0


def test_a_separator_of_windows_is_one_only_where_no_file_has_that_name(tmp_path):
    data = content()
    data["images"][0]["file_name"] = "sub\\a.png"
    path = write(tmp_path / "faces.json", data)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "sub" / "a.png")
    assert not validate(path).faults
    (record,) = load_coco(path)
    assert record.path == tmp_path / "sub" / "a.png"
    (tmp_path / "sub" / "a.png").rename(tmp_path / "sub\\a.png")
    assert not validate(path).faults
    (record,) = load_coco(path)
    assert record.file_name == "sub\\a.png"


def test_a_set_that_training_would_stop_at_is_not_called_trainable(tmp_path):
    data = content()
    data["images"] += [
        {"id": n, "file_name": f"absent{n}.png", "width": 4, "height": 3} for n in range(1, 10)
    ]
    report = validate(write(tmp_path / "faces.json", data))
    assert report.usable and not report.trainable
    data["images"].pop()
    assert validate(write(tmp_path / "faces.json", data)).trainable
    data["annotations"] = []
    report = validate(write(tmp_path / "faces.json", data))
    assert report.usable and not report.trainable


def test_categories_of_one_class_leave_the_other_a_number_of_its_own(tmp_path):
    data = content()
    data["categories"] = [{"id": 0, "name": "fake"}]
    for annotation in data["annotations"]:
        annotation["category_id"] = 0
    coco = parse_coco(write(tmp_path / "faces.json", data), None)
    assert not coco.errors
    real, fake = coco.category_ids
    assert fake == 0 and real != 0


ENDING = """
import sys, torch
from torch.utils.data import DataLoader
from comics.data.dataset import end_workers_at_exit, start_worker
loader = DataLoader(torch.arange(64), 1, num_workers=1, worker_init_fn=start_worker,
                    persistent_workers=True)
iterator = iter(end_workers_at_exit(loader))
next(iterator)
raise ValueError("the one fault")
"""


def test_a_program_that_fails_says_one_fault_and_ends_at_once():
    done = subprocess.run(
        [sys.executable, "-c", ENDING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "the one fault" in done.stderr

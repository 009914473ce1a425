"""Bad files: an error that names the entry, or NaN with a reason; never a silent number."""

import copy
import json
import math

import pytest

from comics.evaluation import evaluate

SQUARE = {"size": [40, 60], "counts": [2 * 40 + 4, 10, 2400 - 94]}


def ground_truth():
    face = {"bbox": [2, 4, 1, 10], "area": 10, "iscrowd": 0, "segmentation": SQUARE}
    return {
        "images": [{"id": i, "height": 40, "width": 60, "file_name": f"{i}.jpg"} for i in (7, 9)],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 0, **face},
            {"id": 2, "image_id": 9, "category_id": 1, **face},
        ],
    }


def results():
    face = {"bbox": [2, 4, 1, 10], "segmentation": SQUARE}
    return [
        {"image_id": 7, "category_id": 0, "score": 0.9, **face},
        {"image_id": 9, "category_id": 1, "score": 0.8, **face},
    ]


def test_the_unspoilt_set_is_perfect():
    flat = evaluate(ground_truth(), results()).flat()
    assert flat["segm/AP"] == pytest.approx(1) and flat["bbox/oLRP/Fake"] == 0


RESULT_FAULTS = {
    "unknown image": ({"image_id": 8}, "entry 1: image 8"),
    "unknown category": ({"category_id": 2}, "entry 1: category 2"),
    "NaN score": ({"score": math.nan}, "entry 1: 'score'"),
    "infinite score": ({"score": math.inf}, "entry 1: 'score'"),
    "score is text": ({"score": "0.5"}, "entry 1: 'score'"),
    "score is null": ({"score": None}, "entry 1: 'score'"),
    "image id is text": ({"image_id": "9"}, "entry 1: 'image_id'"),
    "image id is a fraction": ({"image_id": 9.5}, "entry 1: 'image_id'"),
    "negative width": ({"bbox": [2, 4, -1, 10]}, "entry 1: bbox"),
    "NaN in the box": ({"bbox": [2, math.nan, 1, 10]}, "entry 1: bbox"),
    "three numbers": ({"bbox": [2, 4, 1]}, "entry 1: 'bbox'"),
    "no box, no mask": ({"bbox": None, "segmentation": None}, "entry 1: neither"),
    "mask of another size": (
        {"segmentation": {"size": [60, 40], "counts": [2400]}},
        r"entry 1: the mask is \[60, 40\]",
    ),
    "too few runs": ({"segmentation": {"size": [40, 60], "counts": [84, 10]}}, "entry 1: RLE"),
    "compressed RLE of another image": (
        {"segmentation": {"size": [40, 60], "counts": "d2:0"}},
        "entry 1: RLE",
    ),
    "compressed RLE cut off": (
        {"segmentation": {"size": [40, 60], "counts": "d2:Z"}},
        "entry 1: RLE",
    ),
    "empty RLE": ({"segmentation": {"size": [40, 60], "counts": ""}}, "entry 1: RLE"),
    "no mask": ({"segmentation": None}, "entry 1: no 'segmentation'"),
    "P(fake) of 2": ({"fake_probability": 2.0}, "entry 1: fake_probability"),
}


@pytest.mark.parametrize("fault", RESULT_FAULTS)
def test_faulty_results(fault):
    change, message = RESULT_FAULTS[fault]
    entries = results()
    entries[1] |= change
    with pytest.raises(ValueError, match=message):
        evaluate(ground_truth(), entries)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score"])
def test_missing_fields_of_results(key):
    entries = results()
    del entries[1][key]
    with pytest.raises(ValueError, match=f"entry 1 has no '{key}'"):
        evaluate(ground_truth(), entries)


def test_duplicate_ids_of_results():
    entries = [entry | {"id": 3} for entry in results()]
    with pytest.raises(ValueError, match="entry 1: id 3 is used twice"):
        evaluate(ground_truth(), entries)


def test_repeated_results_are_noted():
    metrics = evaluate(ground_truth(), [*results(), results()[0]])
    assert any("repeat another one exactly" in note for note in metrics.notes)


ANNOTATION_FAULTS = {
    "duplicate id": ({"id": 1}, "entry 1: annotation id 1 is used twice"),
    "unknown category": ({"category_id": 5}, "entry 1: id 2: category 5"),
    "negative height": ({"bbox": [0, 0, 1, -3]}, "entry 1: bbox"),
    "infinite area": ({"area": math.inf}, "entry 1: 'area'"),
    "polygon of three and a half points": (
        {"segmentation": [[1, 1, 2, 2, 3, 3, 4]]},
        "entry 1: a polygon",
    ),
    "no mask": ({"segmentation": []}, "entry 1: id 2 has no mask"),
}


@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_faulty_annotations(fault):
    change, message = ANNOTATION_FAULTS[fault]
    content = ground_truth()
    content["annotations"][1] |= change
    with pytest.raises(ValueError, match=message):
        evaluate(content, results())


@pytest.mark.parametrize("key", ["images", "categories"])
def test_duplicate_images_and_categories(key):
    content = ground_truth()
    content[key][1]["id"] = content[key][0]["id"]
    with pytest.raises(ValueError, match=f"{key}: entry 1: id"):
        evaluate(content, results())


@pytest.mark.parametrize("content", [[], {"images": []}, {"images": {}, "annotations": []}, 3])
def test_no_coco_file(content):
    with pytest.raises(ValueError, match="ground truth"):
        evaluate(content, results())


@pytest.mark.parametrize("entries", [{"results": []}, [3], "nowhere.json"])
def test_no_results(entries):
    with pytest.raises((ValueError, FileNotFoundError)):
        evaluate(ground_truth(), entries)


@pytest.mark.parametrize("text", ["", "{", '[{"image_id": 7,'])
def test_broken_json_names_the_file(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is not readable JSON"):
        evaluate(ground_truth(), path)


def test_unknown_mode():
    with pytest.raises(ValueError, match="iou_types must be among bbox, segm"):
        evaluate(ground_truth(), results(), ["keypoints"])


def test_missing_area_and_iscrowd_are_filled_in_and_noted():
    content = ground_truth()
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metrics = evaluate(content, results())
    assert metrics.flat()["bbox/AP"] == pytest.approx(1)
    assert sum("have no" in note for note in metrics.notes) == 2


def test_a_class_without_faces_is_nan_with_a_reason():
    content = ground_truth()
    del content["annotations"][1]
    metrics = evaluate(content, results())
    flat = metrics.flat()
    assert math.isnan(flat["bbox/AP/Fake"]) and math.isnan(flat["bbox/oLRP/Fake"])
    assert flat["bbox/AP"] == pytest.approx(1)
    assert any("class Fake has no face" in note for note in metrics.notes)
    assert "class Fake has no face" in metrics.table()


def test_no_detection_at_all():
    metrics = evaluate(ground_truth(), [])
    flat = metrics.flat()
    assert flat["segm/AP"] == 0 and flat["segm/oLRP"] == 1 and math.isnan(flat["segm/oLRP_Loc"])
    assert any("no detection of class Real is right" in note for note in metrics.notes)


def test_boxes_come_from_masks_where_there_are_none():
    entries = copy.deepcopy(results())
    for entry in entries:
        del entry["bbox"]
    metrics = evaluate(ground_truth(), entries)
    assert metrics.flat()["bbox/AP"] == pytest.approx(1)
    assert any("have no 'bbox'" in note for note in metrics.notes)


def test_objects_and_paths_give_the_same(tmp_path):
    from pycocotools.coco import COCO

    truth_path, results_path = tmp_path / "gt.json", tmp_path / "dt.json"
    truth_path.write_text(json.dumps(ground_truth()))
    results_path.write_text(json.dumps(results()))
    expected = evaluate(ground_truth(), results()).flat()
    for truth in (str(truth_path), truth_path, COCO(truth_path)):
        flat = evaluate(truth, results_path).flat()
        assert flat == pytest.approx(expected, nan_ok=True)


def test_annotations_of_unlisted_images_are_left_out_and_noted():
    content = ground_truth()
    content["annotations"].insert(0, content["annotations"][0] | {"id": 77, "image_id": 1})
    metrics = evaluate(content, results())
    assert metrics.flat()["segm/AP"] == pytest.approx(1)
    assert any("id 77, image 1" in note for note in metrics.notes)
    content["annotations"][2]["segmentation"] = None
    with pytest.raises(ValueError, match="entry 2: id 2 has no mask"):
        evaluate(content, results())


def test_a_polygon_of_two_points_is_left_out_and_noted():
    content = ground_truth()
    content["annotations"][1]["segmentation"] = [[2, 4, 3, 4, 3, 14, 2, 14], [1, 1, 2, 2]]
    content["annotations"][0]["segmentation"] = [[1, 1, 2, 2]]
    metrics = evaluate(content, results(), ["segm"])
    assert metrics.flat()["segm/AP"] == pytest.approx(1)
    assert any("2 masks have a polygon of fewer" in note for note in metrics.notes)

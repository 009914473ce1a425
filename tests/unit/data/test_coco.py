"""Reading and writing COCO files; ids and categories 0; polygons and both kinds of RLE."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from comics.data.coco import (
    DatasetError,
    FaceAnnotation,
    ImageRecord,
    faces_to_results,
    load_coco,
    write_coco,
)
from comics.data.coco_parser import is_safe_path, parse_coco
from comics.data.records import box_bitmap
from comics.ops.masks import segmentation_to_bitmap
from comics.structures import FAKE, REAL, Faces


def rle_of(bitmap, compressed):
    """COCO's RLE of an [H, W] bool array; the uncompressed one counted by hand."""
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        return {"size": list(bitmap.shape), "counts": rle["counts"].decode()}
    counts, value = [0], False
    for pixel in bitmap.T.reshape(-1):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(bitmap.shape), "counts": counts}


def test_openforensics_style_file(coco, write_set, tmp_path):
    (record,) = load_coco(write_set(coco, images=False))
    assert record.image_id == 0
    assert (record.height, record.width) == (30, 40)
    assert record.path == tmp_path / "Images/Train/a.png"
    real, fake = record.faces
    assert (real.annotation_id, real.label, real.box) == (0, REAL, (2, 3, 12, 11))
    assert (fake.annotation_id, fake.label, fake.box) == (1, FAKE, (20, 5, 32, 25))
    assert fake.segmentation is None


def test_image_root_may_be_elsewhere(coco, write_set, tmp_path):
    (record,) = load_coco(write_set(coco, images=False), tmp_path / "photos")
    assert record.path == tmp_path / "photos/Images/Train/a.png"


def test_ground_truth_masks(coco, write_set):
    (record,) = load_coco(write_set(coco, images=False))
    faces = record.ground_truth()
    expected = torch.zeros(2, 30, 40, dtype=torch.bool)
    expected[0, 3:11, 2:12] = True  # its polygon
    expected[1, 5:25, 20:32] = True  # no segmentation: its box
    assert torch.equal(faces.masks, expected)
    assert faces.labels.tolist() == [REAL, FAKE]
    assert faces.boxes.tolist() == [[2, 3, 12, 11], [20, 5, 32, 25]]
    assert record.ground_truth(with_masks=False).masks is None


@pytest.mark.parametrize("compressed", [True, False])
def test_both_kinds_of_rle(coco, write_set, compressed):
    bitmap = np.random.default_rng(0).random((30, 40)) > 0.5
    coco["annotations"][1]["segmentation"] = rle_of(bitmap, compressed)
    (record,) = load_coco(write_set(coco, images=False))
    assert np.array_equal(record.ground_truth().masks[1].numpy(), bitmap)


def test_crowd_regions_are_kept_but_are_no_targets(coco, write_set):
    coco["annotations"][1]["iscrowd"] = 1
    (record,) = load_coco(write_set(coco, images=False))
    assert [face.iscrowd for face in record.faces] == [False, True]
    assert record.ground_truth().labels.tolist() == [REAL]


def test_an_image_without_faces(coco, write_set):
    coco["images"].append({"id": 7, "file_name": "b.png", "width": 5, "height": 4})
    record = load_coco(write_set(coco, images=False))[1]
    faces = record.ground_truth()
    assert len(faces) == 0
    assert faces.masks.shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "Real", 1: "Fake"}, {0: REAL, 1: FAKE}),
        ({1: "real", 2: "FORGED"}, {1: REAL, 2: FAKE}),
        ({5: "manipulated face", 3: "pristine_face"}, {5: FAKE, 3: REAL}),
        ({0: "fake", 1: "real"}, {0: FAKE, 1: REAL}),
        ({0: "a", 1: "b"}, {0: REAL, 1: FAKE}),
        ({}, {0: REAL, 1: FAKE}),
        ({4: "real_face"}, {4: REAL}),
    ],
)
def test_categories_by_name_or_id(coco, write_set, names, expected):
    coco["categories"] = [{"id": i, "name": name} for i, name in names.items()]
    annotation = coco["annotations"][0]
    coco["annotations"] = [
        {**annotation, "id": n, "category_id": category} for n, category in enumerate(expected)
    ]
    found = parse_coco(write_set(coco, images=False), None)
    assert not found.errors
    labels = [face.label for face in found.records[0].faces]
    assert labels == list(expected.values())
    for label in labels:
        assert expected[found.category_ids[label]] == label


@pytest.mark.parametrize(
    "names", [{1: "person"}, {0: "not real", 2: "b"}, {3: "x", 4: "y"}, {0: "face"}]
)
def test_categories_that_mean_nothing_are_refused(coco, write_set, names):
    coco["categories"] = [{"id": i, "name": name} for i, name in names.items()]
    with pytest.raises(DatasetError, match=r"set\.json.*no category name means real or fake"):
        load_coco(write_set(coco, images=False))


def test_not_json_and_not_there(tmp_path):
    path = tmp_path / "bad.json"
    for content in (b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b""):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="bad.json"):
            load_coco(path)
    with pytest.raises(DatasetError, match="absent.json.*cannot be read"):
        load_coco(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("part", "key"),
    [
        (None, "images"),
        (None, "annotations"),
        ("images", "id"),
        ("images", "file_name"),
        ("images", "width"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "name"),
    ],
)
def test_a_missing_key_is_named(coco, write_set, part, key):
    del (coco if part is None else coco[part][0])[key]
    with pytest.raises(DatasetError) as caught:
        load_coco(write_set(coco, images=False))
    assert "set.json" in str(caught.value)
    assert f"has no key '{key}'" in str(caught.value) or f"[0] has no '{key}'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: c["images"].append(dict(c["images"][0], file_name="b")), "duplicate-image-id"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "duplicate-annotation-id"),
        (lambda c: c["annotations"][0].update(category_id=9), "unknown-category"),
        (lambda c: c["annotations"][0].update(category_id="0"), "unknown-category"),
        (lambda c: c["images"][0].update(file_name="../secret.png"), "unsafe-path"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "unsafe-path"),
        (lambda c: c["images"][0].update(width=0), "bad-value"),
        (lambda c: c["images"][0].update(height="30"), "bad-value"),
        (lambda c: c["images"][0].update(id="zero"), "bad-value"),
        (lambda c: c["images"][0].update(file_name=3), "bad-value"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "bad-value"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "bad-value"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 10**400, 3]), "bad-value"),
        (lambda c: c["annotations"].append("text"), "bad-value"),
        (lambda c: c.update(images={}), "bad-value"),
    ],
)
def test_errors_refuse_the_set(coco, write_set, change, code):
    change(coco)
    with pytest.raises(DatasetError, match=rf"set\.json[\s\S]*\[{code}: the set is refused\]"):
        load_coco(write_set(coco, images=False))


@pytest.mark.parametrize(
    ("bbox", "code", "kept"),
    [
        ([5, 5, 0, 3], "box-empty", None),
        ([5, 5, 4, -3], "box-empty", None),
        ([50, 5, 4, 3], "box-outside", None),
        ([-9, 5, 4, 3], "box-outside", None),
        ([40, 5, 4, 3], "box-outside", None),
        ([-3, -2, 10, 10], "box-clipped", (0, 0, 7, 8)),
        ([35, 25, 10, 10], "box-clipped", (35, 25, 40, 30)),
        ([35, 25, 5.5, 5], None, (35, 25, 40, 30)),
    ],
)
def test_boxes_that_do_not_fit(coco, write_set, caplog, bbox, code, kept):
    coco["annotations"][0].update(bbox=bbox)
    with caplog.at_level(logging.WARNING):
        (record,) = load_coco(write_set(coco, images=False))
    boxes = {face.annotation_id: face.box for face in record.faces}
    assert boxes.get(0) == kept
    assert 1 in boxes
    assert (f"1 x {code}" in caplog.text) if code else not caplog.text


@pytest.mark.parametrize(
    ("segmentation", "code"),
    [
        ([[1, 2, 3, 4]], "polygon-invalid"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon-invalid"),
        ([[1, 2, 3, 4, 5, "x"]], "polygon-invalid"),
        ([[1, 2, 3, 4, 1e9, 6]], "polygon-invalid"),
        ([[1, 2, 3, float("inf"), 5, 6]], "polygon-invalid"),
        ({"size": [40, 30], "counts": [1200]}, "mask-size"),
        ({"size": [30, 40], "counts": [5, 6]}, "mask-invalid"),
        ({"size": [30, 40], "counts": [1300, -100]}, "mask-invalid"),
        ({"size": [30, 40], "counts": "00"}, "mask-invalid"),
        ({"size": [30, 40], "counts": "~~~"}, "mask-invalid"),
        ({"size": [30, 40]}, "mask-invalid"),
        ("text", "mask-invalid"),
    ],
)
def test_unusable_masks_become_the_box(coco, write_set, segmentation, code):
    coco["annotations"][0]["segmentation"] = segmentation
    found = parse_coco(write_set(coco, images=False), None)
    assert [fault.code for fault in found.faults] == [code]
    assert found.faults[0].annotation_id == 0
    assert not found.errors
    mask = found.records[0].ground_truth().masks[0]
    assert torch.equal(mask, box_bitmap((2, 3, 12, 11), 30, 40))


def test_polygon_partly_outside_is_cut_at_the_border(coco, write_set):
    coco["annotations"][0]["segmentation"] = [[-6, 3, 5, 3, 5, 9, -6, 9]]
    found = parse_coco(write_set(coco, images=False), None)
    assert [fault.code for fault in found.faults] == ["polygon-outside"]
    expected = torch.zeros(30, 40, dtype=torch.bool)
    expected[3:9, 0:5] = True
    assert torch.equal(found.records[0].ground_truth().masks[0], expected)


def test_one_bad_polygon_leaves_the_others(coco, write_set):
    coco["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    (record,) = load_coco(write_set(coco, images=False))
    assert len(record.faces[0].segmentation) == 1


def test_annotation_to_an_unknown_image_is_left_out(coco, write_set, caplog):
    coco["annotations"][1]["image_id"] = 99
    (record,) = load_coco(write_set(coco, images=False))
    assert [face.annotation_id for face in record.faces] == [0]
    assert "unknown-image" in caplog.text


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "C:/x", "C:x", "a\\..\\x", "\\x", "a\0"]
)
def test_paths_out_of_the_root(name):
    assert not is_safe_path(name)


@pytest.mark.parametrize("name", ["x.jpg", "Images/Train/x.jpg", "a..b/x", "ü/ x.jpg"])
def test_paths_below_the_root(name):
    assert is_safe_path(name)


def test_faces_to_results_against_pycocotools(tmp_path, coco, write_set):
    masks = torch.zeros(2, 30, 40, dtype=torch.bool)
    masks[0, 3:11, 2:12] = True
    faces = Faces(
        boxes=torch.tensor([[2.0, 3.0, 12.0, 11.0], [20.0, 5.0, 32.0, 25.0]]),
        image_size=(30, 40),
        labels=torch.tensor([REAL, FAKE]),
        scores=torch.tensor([0.75, 0.5]),
        masks=masks,
        fake_probability=torch.tensor([0.25, 0.875]),
    )
    results = json.loads(json.dumps(faces_to_results(faces, image_id=0)))
    assert [r["category_id"] for r in results] == [0, 1]
    assert [r["bbox"] for r in results] == [[2, 3, 10, 8], [20, 5, 12, 20]]
    assert [r["score"] for r in results] == [0.75, 0.5]
    assert [r["fake_probability"] for r in results] == [0.25, 0.875]
    loaded = COCO(str(write_set(coco, images=False))).loadRes(results)
    assert np.array_equal(loaded.annToMask(loaded.anns[1]), masks[0].numpy())
    assert [r["category_id"] for r in faces_to_results(faces, 0, category_ids=(7, 3))] == [7, 3]
    with pytest.raises(ValueError, match="image 5: results need scores"):
        faces_to_results(Faces(faces.boxes, (30, 40), faces.labels), image_id=5)


def test_writing_refuses_ids_used_twice(tmp_path):
    face = FaceAnnotation(0, (0, 0, 2, 2), REAL)
    record = ImageRecord(0, "a.png", str(tmp_path), 4, 4, (face, face))
    with pytest.raises(DatasetError, match="annotation id 0 is used 2 times"):
        write_coco(tmp_path / "x.json", [record])
    assert list(tmp_path.iterdir()) == []


HEIGHT, WIDTH = 9, 12


@st.composite
def records(draw):
    ids = draw(st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True))
    faces = []
    for number in ids:
        x0, x1 = sorted(draw(st.lists(st.integers(0, WIDTH), min_size=2, max_size=2, unique=True)))
        y0, y1 = sorted(draw(st.lists(st.integers(0, HEIGHT), min_size=2, max_size=2, unique=True)))
        kind = draw(st.sampled_from(["none", "polygon", "rle", "counts"]))
        mask = None
        if kind == "polygon":
            mask = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        elif kind != "none":
            bits = draw(st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH))
            mask = rle_of(np.array(bits).reshape(HEIGHT, WIDTH), kind == "rle")
        label, crowd = draw(st.integers(0, 1)), draw(st.booleans())
        faces.append(FaceAnnotation(number, (x0, y0, x1, y1), label, mask, crowd))
    return ImageRecord(draw(st.integers(0, 9)), "a/b.png", ".", HEIGHT, WIDTH, tuple(faces))


@settings(deadline=None, max_examples=60)
@given(record=records())
def test_write_then_read_gives_the_same_faces(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("set") / "set.json"
    write_coco(path, [record])
    (again,) = load_coco(path, ".")
    assert again == record
    assert torch.equal(again.ground_truth().masks, record.ground_truth().masks)
    by_pycocotools = COCO(str(path))
    assert set(by_pycocotools.anns) == {face.annotation_id for face in record.faces}
    for face in record.faces:
        entry = by_pycocotools.anns[face.annotation_id]
        assert entry["category_id"] == face.label
        if face.segmentation is not None:
            assert entry["area"] == by_pycocotools.annToMask(entry).sum()


def test_compressed_rle_must_cover_its_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 120, 2).tolist()
        bitmap = rng.random((height, width)) < rng.random() ** 3
        rle = rle_of(bitmap, compressed=True)
        decoded = segmentation_to_bitmap(rle, height, width)
        assert np.array_equal(decoded.numpy(), bitmap)
        with pytest.raises(ValueError, match="RLE"):
            segmentation_to_bitmap(dict(rle, counts=rle["counts"] + "1"), height, width)

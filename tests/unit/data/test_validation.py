"""The validation lists every fault, with file and id; the catalog finds the files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comics.config import get_cfg
from comics.data.catalog import annotation_digests, dataset_files, datasets_root, load_dataset
from comics.data.faults import ERROR, TREATMENTS, WARNING
from comics.data.records import DatasetError
from comics.data.validation import validate


def codes(report):
    return [(fault.code, fault.image_id, fault.annotation_id) for fault in report.faults]


@pytest.mark.parametrize("decode", [True, False])
def test_a_clean_set(make_set, decode):
    report = validate(make_set(5), decode=decode, workers=2)
    assert report.faults == []
    assert report.usable
    assert (report.images, report.faces) == (5, 10)


@pytest.mark.parametrize("decode", [True, False])
def test_every_fault_of_the_image_files(make_set, decode, tmp_path):
    source = make_set(6)
    images = tmp_path / "images"
    (images / "000.png").unlink()
    (images / "001.png").write_bytes(b"")
    (images / "002.png").write_bytes(b"no image at all")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(images / "003.png")
    content = (images / "004.png").read_bytes()
    (images / "004.png").write_bytes(content[: len(content) // 2])
    report = validate(source, decode=decode)
    expected = [
        ("missing-image", 0, None),
        ("unreadable-image", 1, None),
        ("unreadable-image", 2, None),
        ("size-mismatch", 3, None),
    ]
    if decode:  # only decoding notices missing pixels
        expected.append(("unreadable-image", 4, None))
    assert codes(report) == expected
    assert report.usable
    assert [Path(fault.file).name for fault in report.faults] == [
        f"{i:03d}.png" for i in range(len(expected))
    ]
    assert "9 x 9, the annotations say 32 x 48" in report.faults[3].message


def test_annotations_made_without_exif(coco, write_set, tmp_path):
    source = write_set(coco)
    path = tmp_path / "Images/Train/a.png"
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    _, fault = validate(source).faults  # the first: no image is left
    assert fault.code == "size-mismatch"
    assert "EXIF" in fault.message


def test_faults_of_several_kinds_at_once(coco, write_set):
    base = coco["annotations"][0]
    coco["annotations"] = [
        {**base, "id": 0, "bbox": [1, 1, 0, 5]},
        {**base, "id": 1, "bbox": [-5, 1, 10, 5]},
        {**base, "id": 2, "image_id": 8},
        {**base, "id": 2},
        {**base, "id": 3, "category_id": 5},
        {**base, "id": 4, "segmentation": {"size": [3, 4], "counts": [12]}},
        {**base, "id": 5, "segmentation": [[50, 5, 60, 5, 60, 9]]},
        {"id": 6, "image_id": 0},
    ]
    report = validate(write_set(coco))
    assert codes(report) == [
        ("box-empty", 0, 0),
        ("box-clipped", 0, 1),
        ("unknown-image", 8, 2),
        ("duplicate-annotation-id", 0, 2),
        ("unknown-category", 0, 3),
        ("mask-size", 0, 4),
        ("polygon-outside", 0, 5),
        ("missing-key", 0, 6),
        ("mask-empty", 0, 5),
    ]
    assert not report.usable
    for fault in report.faults:
        assert str(fault.image_id) in str(fault)
        assert fault.treatment in str(fault)
    assert report.as_dict()["faults"][0]["treatment"] == TREATMENTS["box-empty"][1]


def test_a_set_without_any_face(coco, write_set):
    coco["annotations"] = []
    report = validate(write_set(coco))
    assert codes(report) == [("no-faces", None, None)]
    assert report.usable


def test_no_image_can_be_used(coco, write_set):
    report = validate(write_set(coco, images=False))
    assert codes(report) == [("no-usable-image", None, None), ("missing-image", 0, None)]
    assert not report.usable


def test_a_broken_annotation_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{]")
    report = validate(path)
    assert [fault.code for fault in report.faults] == ["unreadable-file", "no-usable-image"]
    assert not report.usable


def test_images_larger_than_allowed(make_set):
    report = validate(make_set(2), max_pixels=100, decode=False)
    assert {fault.code for fault in report.faults} == {"unreadable-image", "no-usable-image"}


def test_treatments_are_complete():
    assert {severity for severity, _ in TREATMENTS.values()} == {ERROR, WARNING}
    assert all(treatment for _, treatment in TREATMENTS.values())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("openforensics_train", "Train"),
        ("openforensics_val", "Val"),
        ("openforensics_test_dev", "Test-Dev"),
        ("openforensics_test_challenge", "Test-Challenge"),
    ],
)
def test_openforensics_names(coco, tmp_path, name, split, write_set):
    folder = tmp_path / "OpenForensics"
    folder.mkdir()
    write_set(coco, images=False).rename(folder / f"{split}_poly.json")
    (record,) = load_dataset(name, tmp_path)
    assert record.path == folder / "Images/Train/a.png"


def test_annotation_files_as_entries(coco, write_set, tmp_path):
    source = write_set(coco, images=False)
    assert dataset_files(str(source), "nowhere") == (source, tmp_path)
    entry = f"{source}@{tmp_path}/pho@tos"
    assert dataset_files(entry, "nowhere") == (source, tmp_path / "pho@tos")
    odd = tmp_path / "a@b"
    odd.mkdir()
    moved = source.rename(odd / "set.json")
    assert dataset_files(str(moved), "nowhere") == (moved, odd)


def test_unknown_entries(tmp_path):
    with pytest.raises(KeyError, match="openforensics_val"):
        dataset_files("openforensics_vall", tmp_path)
    with pytest.raises(DatasetError, match=r"Val_poly\.json.*COMICS_DATASETS"):
        dataset_files("openforensics_val", tmp_path)
    with pytest.raises(DatasetError, match=r"no annotation file absent\.json"):
        dataset_files("absent.json@folder", tmp_path)


def test_environment_overrides_the_root():
    cfg = get_cfg()
    cfg.DATASETS.ROOT = "here"
    assert datasets_root(cfg, {}) == Path("here")
    assert datasets_root(cfg, {"COMICS_DATASETS": "/there"}) == Path("/there")


def test_digests_name_the_annotations_of_every_kind_of_entry(make_set, tmp_path):
    source = make_set(2)
    manifest = tmp_path / "clips@night" / "faces.csv"  # no part of the name is a condition
    manifest.parent.mkdir()
    manifest.write_text("path,label\n")
    entries = [str(source), f"{source}@{tmp_path}", f"{manifest}@split=train"]
    files = [source, source, manifest]
    assert annotation_digests(entries, tmp_path) == {
        entry: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for entry, file in zip(entries, files, strict=True)
    }
    with pytest.raises(DatasetError, match="openforensics_val"):
        annotation_digests(["openforensics_val"], tmp_path)

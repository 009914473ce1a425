"""Corrupted copies of a split, and the card's facts."""

import json

import numpy as np
import pytest
from PIL import Image

from comics.data.challenge_sets import corrupt_split
from comics.data.generate import Settings, generate_dataset
from comics.data.generate_sources import SyntheticSource
from comics.data.set_card import split_facts, warnings

COUNTS = {"train": 2, "val": 0, "test_dev": 5, "test_challenge": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("set")
    settings = Settings(seed=3, methods=("self_blend",), mixed=1.0)
    generate_dataset(path, SyntheticSource(96), settings, COUNTS, progress=False)
    return path


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def pixels(folder, image):
    return np.asarray(Image.open(folder / image["file_name"]))


def test_a_challenge_set_is_the_split_with_a_record_of_what_was_done(folder):
    assert corrupt_split(folder, "test_dev", "hard", seed=1, progress=False) == []
    clean, hard = read(folder, "test_dev"), read(folder, "hard")
    assert hard["annotations"] == clean["annotations"]
    assert hard["info"]["corrupted"] == {"of": "test_dev", "tags": []}
    for before, after in zip(clean["images"], hard["images"], strict=True):
        assert after["clean"] == before["file_name"] != after["file_name"]
        assert after["corruption"]["level"] in (1, 2, 3, 4) and after["corruption"]["steps"]
        first, second = pixels(folder, before), pixels(folder, after)
        assert first.shape == second.shape and not np.array_equal(first, second)


def test_the_seed_decides_and_a_run_goes_on(folder):
    corrupt_split(folder, "test_dev", "again", ("colour",), seed=1, progress=False)
    content = (folder / "again.json").read_bytes()
    images = {path: path.read_bytes() for path in (folder / "images/again").iterdir()}
    tags = {s["tag"] for i in read(folder, "again")["images"] for s in i["corruption"]["steps"]}
    assert tags == {"colour"}
    done = [path for path in (folder / ".jobs").glob("*again*")]
    assert len(done) == 5
    done[0].unlink()  # as if the run had been stopped there
    corrupt_split(folder, "test_dev", "again", ("colour",), seed=1, progress=False)
    assert (folder / "again.json").read_bytes() == content
    assert {path: path.read_bytes() for path in images} == images
    corrupt_split(folder, "test_dev", "again", ("colour",), seed=2, progress=False)
    assert (folder / "again.json").read_bytes() != content


def test_an_image_that_cannot_be_read_is_left_out_with_its_faces(folder):
    broken = read(folder, "test_dev")
    broken["images"][1]["file_name"] = "images/absent.jpg"
    (folder / "broken.json").write_text(json.dumps(broken))
    faults = corrupt_split(folder, "broken", "less", seed=1, progress=False)
    assert len(faults) == 1 and "absent.jpg" in faults[0]
    less = read(folder, "less")
    assert len(less["images"]) == 4
    assert {face["image_id"] for face in less["annotations"]} <= {i["id"] for i in less["images"]}


def test_an_unknown_kind_ends_before_anything_is_written(folder):
    with pytest.raises(ValueError, match="kinds are"):
        corrupt_split(folder, "test_dev", "none", ("rain",), progress=False)
    assert not (folder / "none.json").exists()


def face(image, label, side=30.0, **forgery):
    return {"image_id": image, "category_id": label, "iscrowd": 0, "bbox": [0, 0, side, side],
            "method": "generated_swap" if label else None, "forgery": forgery}  # fmt: skip


def write(path, annotations, photos):
    images = [{"id": i} for i in range(photos)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return split_facts(path)


def test_the_card_counts_and_warns(tmp_path):
    donor = {"donor": "a.png", "donor_kind": "StyleGAN"}
    facts = {
        "train": write(tmp_path / "a.json", [face(0, 0), face(0, 1, **donor), face(1, 0)], 2),
        "test_dev": write(
            tmp_path / "b.json",
            [face(0, 1, **donor), face(0, 1, 6.0), face(1, 1), face(2, 1, donor="b.png")],
            4,
        ),
        "empty": write(tmp_path / "c.json", [], 0),
    }
    dev = facts["test_dev"]
    assert (dev["photos"], dev["forged"], dev["real"], dev["photos_all_forged"]) == (4, 4, 0, 3)
    assert (dev["photos_without_faces"], dev["faces_under_stride"]) == (1, 1)
    assert dev["donors"] == ["a.png", "b.png"] and dev["donor_kinds"] == {"StyleGAN": 1}
    told = " ".join(warnings(facts, ("train", "val")))
    for words in (
        "one sex or age only cannot be told",
        "train: 1 photos in which none is.",
        "test_dev: every face is forged",
        "test_dev: 0 of 4 photos show both kinds",
        "3 photos in which all faces are forged, 1 photos without a face, 1 faces under 8 pixels",
        "test_dev: 1 of its donors are in training too",
        "empty: there is no photo in it",
    ):
        assert words in told, words

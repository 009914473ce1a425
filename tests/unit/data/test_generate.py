"""Generated sets: labels, splits, resuming, annotations."""

import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from drawn_faces import write_photos
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.stats import ks_2samp

from comics.data import generate
from comics.data.forgery import METHODS
from comics.data.generate import SPLITS, Settings, draw_labels, generate_dataset, make_image
from comics.data.generate_sources import Job, PhotoSource, SyntheticSource

COUNTS = {"train": 4, "val": 1, "test_dev": 2, "test_challenge": 2}


def contents(folder):
    """Every file of a finished set with its bytes, records left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and generate.RECORDS not in path.parts
    }


def annotations_of(folder, split):
    return json.loads((folder / f"{split}.json").read_text())


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    report = generate_dataset(folder, SyntheticSource(96), Settings(seed=5), COUNTS, progress=False)
    assert (report.written, report.reused, report.skipped) == (9, 0, [])
    return folder


def test_the_files_are_coco_with_both_classes(small_set):
    for split in SPLITS:
        content = annotations_of(small_set, split)
        assert content["categories"] == [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]
        assert [image["id"] for image in content["images"]] == list(range(1, COUNTS[split] + 1))
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        assert content["info"]["seed"] == 5 and content["info"]["source"] == "synthetic"
        for image in content["images"]:
            with Image.open(small_set / image["file_name"]) as stored:
                assert stored.format == "JPEG" and stored.size == (image["width"], image["height"])


def test_pycocotools_reads_the_masks(small_set):
    reader = COCO(small_set / "train.json")
    assert reader.anns
    for annotation in reader.anns.values():
        mask = reader.annToMask(annotation)
        assert mask.sum() == annotation["area"] > 0
        x, y, width, height = annotation["bbox"]
        rows, columns = np.nonzero(mask)
        assert [columns.min(), rows.min()] == [x, y]
        assert [np.ptp(columns) + 1, np.ptp(rows) + 1] == [width, height]


def test_forged_faces_name_their_method_and_altered_pixels(small_set):
    for split in SPLITS:
        for annotation in annotations_of(small_set, split)["annotations"]:
            if annotation["category_id"] == 0:
                assert annotation["method"] is None and annotation["forgery"] == {}
                continue
            assert annotation["method"] in METHODS
            altered = coco_mask.decode(annotation["forgery"]["altered"])
            face = coco_mask.decode(annotation["segmentation"])
            assert altered.any() and not (altered & ~face & 1).any()


def test_a_second_run_reuses_everything(small_set):
    before = contents(small_set)
    report = generate_dataset(
        small_set, SyntheticSource(96), Settings(seed=5), COUNTS, progress=False
    )
    assert (report.written, report.reused) == (0, 9)
    assert contents(small_set) == before


def test_workers_do_not_change_the_set(small_set, tmp_path):
    generate_dataset(
        tmp_path, SyntheticSource(96), Settings(seed=5), COUNTS, workers=2, progress=False
    )
    assert contents(tmp_path) == contents(small_set)


def test_an_interrupted_set_is_finished_to_the_same_bytes(small_set, tmp_path):
    generate_dataset(
        tmp_path, SyntheticSource(96), Settings(seed=5), {**COUNTS, "train": 2}, 0, False
    )
    images, records = tmp_path / "images/train", tmp_path / generate.RECORDS / "train"
    (images / "000001.jpg").write_bytes(b"half")  # as if another program broke it
    (records / "000002.json").write_text('{"key": "')
    (images / ".000003.jpg.77.part").write_bytes(b"half")  # as comics.files names what it writes
    (tmp_path / "val.json").unlink()
    report = generate_dataset(tmp_path, SyntheticSource(96), Settings(seed=5), COUNTS, 0, False)
    assert (report.written, report.reused) == (4, 5)
    assert contents(tmp_path) == contents(small_set)


def test_other_arguments_in_the_same_folder_are_refused(small_set):
    before = contents(small_set)
    with pytest.raises(ValueError, match="other arguments"):
        generate_dataset(small_set, SyntheticSource(96), Settings(seed=6), COUNTS, progress=False)
    assert contents(small_set) == before


def test_foreign_annotation_files_are_not_overwritten(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="not made here"):
        generate_dataset(tmp_path, SyntheticSource(96), Settings(), COUNTS, progress=False)
    assert (tmp_path / "train.json").read_text() == "{}"


def test_labels_are_drawn_at_the_asked_share_and_evenly_over_methods():
    methods = ["self_blend", "down_up", "part_warp"]
    labels = draw_labels(np.random.default_rng(0), 6000, 0.3, methods)
    counts = Counter(labels)
    assert counts[None] / 6000 == pytest.approx(0.7, abs=0.02)
    for method in methods:
        assert counts[method] / 6000 == pytest.approx(0.1, abs=0.015)
    assert draw_labels(np.random.default_rng(0), 0, 0.5, methods) == []


def test_photos_of_several_faces_show_both_kinds_where_that_is_asked_for():
    rng, methods = np.random.default_rng(0), ["self_blend"]
    drawn = [draw_labels(rng, 3, 0.5, methods, mixed=0.8) for _ in range(2000)]
    both = np.mean([None in labels and "self_blend" in labels for labels in drawn])
    assert both == pytest.approx(0.8 + 0.2 * 0.75, abs=0.02)  # 3 of 4 draws are mixed anyhow
    places = np.mean([[label is None for label in labels] for labels in drawn], axis=0)
    assert places == pytest.approx(0.5, abs=0.04)  # and no place tells the label
    lone = [draw_labels(rng, 1, 0.5, methods, mixed=1.0)[0] for _ in range(1000)]
    assert Counter(lone)[None] == pytest.approx(500, abs=60)
    with pytest.raises(ValueError, match="mixed photos need a fake_share between"):
        Settings(mixed=0.5, fake_share=1.0)


def test_photos_can_be_chosen_by_their_faces(tmp_path):
    path = write_photos(tmp_path, 6)
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:7]  # the fourth has one face, later ones none
    path.write_text(json.dumps(content))

    def several(faces):
        return {name for name, own in faces.items() if len(own) > 1}

    source = PhotoSource(path, keep=several)
    assert sorted(source.photos) == ["0.png", "1.png", "2.png"]
    assert sum(len(names) for names in source.donors.values()) == 6
    assert source.arguments["photos"] == 3


def test_labels_tell_nothing_of_size_place_or_compression():
    source, settings = SyntheticSource(64), Settings(seed=1, methods=("down_up", "part_warp"))
    columns = {0: [], 1: []}
    for number in range(1, 151):
        _, record = make_image(Job("train", number, ""), source, settings)
        for face in record["annotations"]:
            x, y, width, height = face["bbox"]
            quality = record["image"]["jpeg_quality"]
            columns[face["category_id"]].append([x, y, width, height, face["area"], quality])
    real, fake = np.array(columns[0]), np.array(columns[1])
    assert min(len(real), len(fake)) > 100
    for column in range(real.shape[1]):
        assert ks_2samp(real[:, column], fake[:, column]).pvalue > 0.005


def test_only_faces_differ_between_a_real_and_a_forged_set():
    """The same seed with no and with every face forged: the same photo, noise and quality."""
    job, source = Job("train", 3, ""), SyntheticSource(160)
    decoded, records = [], []
    for share in (0.0, 1.0):
        data, record = make_image(job, source, Settings(seed=2, fake_share=share))
        decoded.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        records.append(record)
    faces = np.zeros(decoded[0].shape[:2], bool)
    for real, fake in zip(*(record["annotations"] for record in records), strict=True):
        assert (real["bbox"], real["segmentation"]) == (fake["bbox"], fake["segmentation"])
        faces |= coco_mask.decode(real["segmentation"]).astype(bool)
    assert records[0]["image"] == records[1]["image"]
    changed = (decoded[0] != decoded[1]).any(-1)
    assert changed[faces].any()
    # JPEG spreads a change over its 16 x 16 cell, and chroma interpolation one pixel more
    touched = np.zeros_like(faces)
    for y, x in np.argwhere(faces):
        top, left = y // 16 * 16, x // 16 * 16
        touched[max(0, top - 2) : top + 18, max(0, left - 2) : left + 18] = True
    assert not changed[~touched].any()


def test_unseen_methods_stay_out_of_training():
    settings = Settings(
        methods=("down_up", "self_blend"), unseen_methods=("self_blend", "part_warp")
    )
    assert settings.methods_of("train") == settings.methods_of("val") == ["down_up"]
    assert set(settings.methods_of("test_dev")) == {"down_up", "self_blend", "part_warp"}
    assert settings.methods_of("test_challenge") == settings.methods_of("test_dev")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"methods": ("swap",)}, KeyError),
        ({"fake_share": 1.5}, ValueError),
        ({"strength": 0.0}, ValueError),
        ({"corrupt_train": -0.1}, ValueError),
        ({"corrupt_train": 1.1}, ValueError),
        ({"corrupt_train": float("nan")}, ValueError),
        ({"seed": -1}, ValueError),
        ({"methods": ("down_up",), "unseen_methods": ("down_up",)}, ValueError),
    ],
)
def test_impossible_settings_are_refused(changes, error):
    with pytest.raises(error):
        Settings(**changes)


def images_with(share, split, numbers=range(1, 5)):
    """{number: (JPEG bytes, record)} of a split, where that share of train is corrupted."""
    settings = Settings(seed=4, corrupt_train=share)
    return {n: make_image(Job(split, n, ""), SyntheticSource(64), settings) for n in numbers}


def test_no_image_of_train_is_corrupted_unless_asked_for(monkeypatch):
    """The draw comes last: quality is still the first number of the stream for saving."""
    monkeypatch.setattr(generate, "challenge", None)  # a call would fail
    assert Settings().corrupt_train == 0
    found = images_with(0.0, "train")
    for number, (_, record) in found.items():
        seeds = np.random.SeedSequence([4, SPLITS.index("train"), number]).spawn(4)
        low, high = generate.JPEG_QUALITY
        quality = np.random.default_rng(seeds[3]).integers(low, high + 1)
        assert record["image"]["jpeg_quality"] == quality


def test_corruption_changes_pixels_of_train_and_nothing_else():
    plain, corrupted = images_with(0.0, "train"), images_with(1.0, "train")
    for number, (data, record) in plain.items():
        changed, same = corrupted[number]
        decoded = [np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in (data, changed)]
        assert decoded[0].shape == decoded[1].shape
        assert (decoded[0] != decoded[1]).any()
        assert same == record  # boxes, masks, methods, quality
    for split in SPLITS[1:]:
        assert images_with(0.0, split, [1, 2]) == images_with(1.0, split, [1, 2])


def test_a_share_of_train_is_corrupted():
    numbers = range(1, 13)
    plain, every, some = (images_with(share, "train", numbers) for share in (0.0, 1.0, 0.5))
    kept = [some[number] == plain[number] for number in numbers]
    assert all(kept[n - 1] or some[n] == every[n] for n in numbers)
    assert 2 <= sum(kept) <= 10


# -- real photos -------------------------------------------------------------------------------


@pytest.fixture
def photo_set(tmp_path):
    """24 photos of noise: pairs share an identity, the last eight have none."""
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(24):
        name = f"images/{index:02d}.png"
        Image.fromarray(rng.integers(40, 200, (60, 80, 3), dtype=np.uint8)).save(folder / name)
        image = {"id": index + 1, "file_name": name, "width": 80, "height": 60}
        images.append(image | ({"identity": f"person {index // 2}"} if index < 16 else {}))
        face = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": 0, "iscrowd": 0}
        annotations.append(face | {"bbox": [0, 0, 5, 5], "bbox_uniform": [20.0, 10.0, 26.0, 34.0]})
    annotations[0]["keypoints5"] = [[28, 22], [38, 22], [33, 28], [29, 36], [37, 36]]
    crowd = {"id": 99, "image_id": 1, "category_id": 0, "iscrowd": 1, "bbox": [60, 5, 10, 12]}
    content = {
        "images": images,
        "annotations": [*annotations, crowd],
        "categories": [{"id": 0, "name": "real_face"}],
    }

    def write(**changes):
        path = folder / "annotations.json"
        path.write_text(json.dumps(content | changes))
        return path

    write()
    return folder, content, write


def test_no_identity_and_no_photo_is_in_two_splits(photo_set, tmp_path):
    folder, content, _ = photo_set
    source = PhotoSource(folder, ratio=(0.4, 0.2, 0.2, 0.2))
    jobs = source.plan({})
    assert sorted(job.photo for job in jobs) == sorted(i["file_name"] for i in content["images"])
    identity = {i["file_name"]: i.get("identity", i["file_name"]) for i in content["images"]}
    splits = {}
    for job in jobs:
        splits.setdefault(identity[job.photo], set()).add(job.split)
    assert all(len(names) == 1 for names in splits.values())
    assert len({job.split for job in jobs}) > 1


def test_donors_come_from_other_photos_of_the_same_split(photo_set):
    folder, _, _ = photo_set
    source = PhotoSource(folder, ratio=(0.5, 0.5, 0, 0))
    by_split = {split: [] for split in SPLITS}
    for job in source.plan({}):
        by_split[job.split].append((job, source.open(job, np.random.default_rng(0))))
    for pairs in by_split.values():
        for job, photo in pairs:
            donor = source.donor(job, photo, 0, np.random.default_rng(1))
            allowed = [other.image for peer, other in pairs if peer.photo != job.photo]
            assert any(np.array_equal(donor.image, image) for image in allowed)


def test_photos_keep_their_framing_and_ignore_regions(photo_set, tmp_path):
    folder, _, _ = photo_set
    source = PhotoSource(folder, ratio=(1, 0, 0, 0))
    report = generate_dataset(tmp_path / "out", source, Settings(), progress=False)
    assert (report.written, report.skipped) == (24, [])
    content = annotations_of(tmp_path / "out", "train")
    number = next(i["id"] for i in content["images"] if i["source_photo"] == "images/00.png")
    found = [a for a in content["annotations"] if a["image_id"] == number]
    assert [a["iscrowd"] for a in found] == [0, 1, 1]
    assert [a["category_id"] for a in found[1:]] == [0, 1]  # ignored for either verdict
    assert found[0]["bbox"] == [20, 10, 26, 34]
    assert found[1]["bbox"] == found[2]["bbox"] == [60, 5, 10, 12]


def test_size_bounds_the_long_side_and_scales_boxes(photo_set):
    folder, _, _ = photo_set
    source = PhotoSource(folder, size=40)
    photo = source.open(source.plan({})[0], np.random.default_rng(0))
    assert photo.image.shape == (30, 40, 3)
    np.testing.assert_allclose(photo.faces[0].box, [10, 5, 23, 22])


def test_bad_photos_are_reported_and_skipped(photo_set, tmp_path):
    folder, content, write = photo_set
    (folder / "images/03.png").write_bytes(b"no picture")
    (folder / "images/04.png").unlink()
    content["images"][5]["width"] = 81
    content["annotations"][6]["bbox_uniform"] = [20, 10, -4, 8]
    content["annotations"][7]["bbox_uniform"] = None
    content["annotations"][8]["keypoints5"] = [[1, 2]]
    content["annotations"][9]["bbox_uniform"] = [500, 10, 20, 20]
    write()
    source = PhotoSource(folder, ratio=(1, 0, 0, 0))
    report = generate_dataset(tmp_path / "out", source, Settings(), workers=0, progress=False)
    reasons = dict(report.skipped)
    assert sorted(reasons) == [f"images/{index:02d}.png" for index in range(3, 10)]
    for name, reason in reasons.items():
        assert name in reason
    assert report.written == 17
    assert len(annotations_of(tmp_path / "out", "train")["images"]) == 17


def test_a_split_with_too_few_photos_is_an_error(photo_set):
    folder, _, _ = photo_set
    with pytest.raises(ValueError, match="--val"):
        PhotoSource(folder).plan({"val": 20})
    with pytest.raises(ValueError, match="0 or more"):
        PhotoSource(folder).plan({"val": -1})


def test_files_that_cannot_be_a_source_are_refused(photo_set, tmp_path):
    folder, content, write = photo_set
    with pytest.raises(FileNotFoundError):
        PhotoSource(tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        PhotoSource(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="annotations"):
        PhotoSource(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="forged"):
        PhotoSource(write(categories=[{"id": 0, "name": "Fake"}]))
    with pytest.raises(ValueError, match="no image"):
        PhotoSource(write(images=content["images"][1:]))
    with pytest.raises(ValueError, match="twice"):
        twin = content["images"][0] | {"id": 77}
        PhotoSource(write(images=[*content["images"], twin]))
    with pytest.raises(ValueError, match="ratio"):
        PhotoSource(write(), ratio=(1, 0))


def test_photos_that_are_elsewhere_fail_before_anything_is_written(photo_set, tmp_path):
    folder, content, _ = photo_set
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"none of its 24 photos is below .*alone"):
        PhotoSource(alone)
    # One that is there is enough: the others are reported one by one
    (alone / "images").mkdir()
    shutil.copy(folder / "images/07.png", alone / "images/07.png")
    assert len(PhotoSource(alone).photos) == 24


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:\\b.png"])
def test_photos_outside_of_the_folder_are_refused(photo_set, name):
    folder, content, write = photo_set
    write(images=[content["images"][0] | {"file_name": name}], annotations=[])
    with pytest.raises(ValueError, match="leaves the folder"):
        PhotoSource(folder)


def test_some_of_the_photos_are_no_kind_of_their_own(tmp_path):
    """The split is by a hash of the identity: in its order, photos with one would come first."""
    images = [
        {"id": n, "file_name": f"{n}.png"} | ({"identity": f"p{n}"} if n % 4 == 0 else {})
        for n in range(1, 2001)
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "1.png").touch()  # not all of them are elsewhere
    jobs = PhotoSource(path).plan({"train": 0, "val": 0, "test_dev": 100, "test_challenge": 0})
    assert len(jobs) == 100
    known = sum(int(job.photo.removesuffix(".png")) % 4 == 0 for job in jobs)
    assert 10 <= known <= 40  # of 100 drawn ones 25 are expected, and fewer or more in 1 of 1000

"""Generated faces as donors: files, splits, choice."""

import numpy as np
import pytest
from drawn_faces import drawn_face
from PIL import Image

from comics.data.forgery import describe_face
from comics.data.forgery.donors import (
    FFHQ_BOX,
    FFHQ_TEMPLATE,
    DonorFile,
    Fit,
    GeneratedDonors,
    PoseRegression,
    align,
    donor_files,
    fit_pose,
)

SPLITS = {"train": 0.7, "val": 0.3}


def write(folder, name, image):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def bright_and_dark(tmp_path):
    levels = {"a_dark.png": 90, "b_bright.png": 220, "c_middle.png": 150}
    return [write(tmp_path, name, drawn_face(level)) for name, level in levels.items()]


def face_of(image, **known):
    size = image.shape[0]
    return describe_face(image, FFHQ_BOX * size, keypoints=FFHQ_TEMPLATE * size, **known)


@pytest.mark.parametrize("level", [90, 150, 220])
def test_the_donor_is_as_bright_as_the_face(bright_and_dark, level):
    donors = GeneratedDonors([DonorFile(path, ("train",)) for path in bright_and_dark], SPLITS)
    chosen = donors.choose(face_of(drawn_face(level, seed=5)), "train", np.random.default_rng(0))
    cheek = chosen.face.image[75:80, 48:54].mean()
    assert abs(cheek - level) < 15


def test_the_seed_decides_and_splits_are_kept(bright_and_dark):
    files = [DonorFile(bright_and_dark[0], ("train",)), DonorFile(bright_and_dark[1], ("val",))]
    donors = GeneratedDonors(files, SPLITS)
    face = face_of(drawn_face(70))
    for _ in range(2):
        chosen = donors.choose(face, "train", np.random.default_rng(3))
        assert chosen.face.image.mean() < 100  # the dark one is the only one of train
    # The bright one is the only one of val, and no match for a dark face
    assert donors.choose(face, "val", np.random.default_rng(3)) is None
    assert donors.arguments["counts"] == {"train": 1, "val": 1}


def test_files_without_a_split_get_one_by_their_name(tmp_path):
    files = [DonorFile(write(tmp_path, f"{i}.png", drawn_face(size=32))) for i in range(60)]
    donors, again = GeneratedDonors(files, SPLITS), GeneratedDonors(files[::-1], SPLITS)
    counts = donors.arguments["counts"]
    assert sum(counts.values()) == 60
    assert 26 <= counts["train"] <= 56  # 42 expected, 4 deviations of a fair draw
    assert donors.arguments == again.arguments


def test_unreadable_donors_are_named_and_passed_over(bright_and_dark, tmp_path):
    broken, wide = tmp_path / "broken.png", tmp_path / "wide.png"
    broken.write_bytes(b"no picture")
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(wide)
    files = [
        DonorFile(path, ("train",))
        for path in [*bright_and_dark, broken, wide, tmp_path / "gone.png"]
    ]
    donors = GeneratedDonors(files, SPLITS)
    assert donors.arguments["counts"]["train"] == 3
    assert [path for path, _ in donors.skipped] == sorted(str(file.path) for file in files[3:])
    assert "square" in dict(donors.skipped)[str(wide)]
    with pytest.raises(ValueError, match=r"none of 1 donors can be read; the first: .*broken.png"):
        GeneratedDonors([DonorFile(broken)], SPLITS)


def test_folders(tmp_path):
    write(tmp_path, "b/2.png", drawn_face(size=16))
    write(tmp_path, "1.jpg", drawn_face(size=16))
    (tmp_path / "notes.txt").write_text("no picture")
    assert donor_files(tmp_path) == [tmp_path / "1.jpg", tmp_path / "b/2.png"]
    with pytest.raises(ValueError, match="no such folder"):
        donor_files(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in it"):
        donor_files(tmp_path / "empty")


def test_faces_that_no_donor_fits(bright_and_dark):
    donors = GeneratedDonors([DonorFile(path, ("train",)) for path in bright_and_dark], SPLITS)
    image = drawn_face(150)
    rng = np.random.default_rng(0)
    assert donors.choose(face_of(image), "train", rng) is not None
    assert donors.choose(face_of(image, covered=True), "train", rng) is None
    points = FFHQ_TEMPLATE * 128
    points[2, 0] += 0.2 * 128  # a profile
    profile = describe_face(image, FFHQ_BOX * 128, keypoints=points)
    assert donors.choose(profile, "train", rng) is None
    same = describe_face(image, FFHQ_BOX * 128, keypoints=np.full((5, 2), 50.0))
    assert donors.choose(same, "train", rng) is None


def test_pose_is_read_from_the_picture():
    rng = np.random.default_rng(0)
    offsets = rng.uniform(-0.06, 0.06, 160)
    frames = [
        align(drawn_face(nose=offset, seed=i), FFHQ_TEMPLATE * 128)[0]
        for i, offset in enumerate(offsets)
    ]
    noses = np.stack([offsets, np.zeros_like(offsets)], axis=1)
    pose = PoseRegression.fit(frames[:120], noses[:120])
    found = np.array([pose(frame)[0] for frame in frames[120:]])
    assert np.corrcoef(found, offsets[120:])[0, 1] > 0.9


def test_too_few_known_faces_fix_no_pose():
    def read():
        return drawn_face()

    assert fit_pose([(read, FFHQ_TEMPLATE * 128)] * 5) is None


def test_a_stricter_fit_refuses_heads_turned_aside_and_guessed_keypoints(bright_and_dark):
    files = [DonorFile(path, ("train",), "drawn") for path in bright_and_dark]
    strict = GeneratedDonors(files, SPLITS, fit=Fit(shape=0.03, side=30, landmarks=True, patch=15))
    loose = GeneratedDonors(files, SPLITS)
    image, box = drawn_face(150), FFHQ_BOX * 128
    points = FFHQ_TEMPLATE * 128
    turned = points.copy()
    turned[[0, 3], 0] += 0.1 * 128  # what is left of the face comes nearer to the middle
    masked = image.copy()
    masked[52:72, 36:92] = 0  # sunglasses
    faces = {
        "sunglasses": describe_face(masked, box, keypoints=points),
        "as it is": describe_face(image, box, keypoints=points),
        "turned": describe_face(image, box, keypoints=turned),
        "guessed": describe_face(image, box),
        "small": describe_face(
            drawn_face(150, size=40), FFHQ_BOX * 40, keypoints=points * 40 / 128
        ),
    }
    rng = np.random.default_rng(0)
    found = {name: strict.choose(face, "train", rng) is not None for name, face in faces.items()}
    refused = {"sunglasses": False, "turned": False, "guessed": False, "small": False}
    assert found == {"as it is": True} | refused
    assert all(loose.choose(faces[name], "train", rng) is not None for name in refused)
    assert "fit" in strict.arguments and "fit" not in loose.arguments


def test_a_choice_says_which_donor_of_which_kind(bright_and_dark):
    kinds = dict(zip(bright_and_dark, ("old", "new", "new"), strict=True))
    files = [DonorFile(path, ("train",), kind) for path, kind in kinds.items()]
    donors = GeneratedDonors(files, SPLITS)
    assert donors.kinds("train") == {"old": 1, "new": 2} and donors.kinds("val") == {}
    chosen = donors.choose(face_of(drawn_face(90)), "train", np.random.default_rng(0))
    assert chosen.record["donor"] == "a_dark.png" and chosen.record["donor_kind"] == "old"
    assert 0 <= chosen.record["misfit"] < 0.5
    # Each one's partner is nearest in brightness: 90, 220, 150
    partners = {first.path.name: second.path.name for first, second in donors.partners("train")}
    assert partners == {"a_dark.png": "c_middle.png", "b_bright.png": "c_middle.png",
                        "c_middle.png": "a_dark.png"}  # fmt: skip

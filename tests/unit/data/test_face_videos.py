import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from comics.data.face_video_people import DrawnPeople, PhotoPeople
from comics.data.face_videos import FaceVideoSettings, forge_clip, make_face_videos, plan
from comics.data.faces.checks import check_files
from comics.data.faces.manifest_files import read_manifest
from comics.data.forgery import METHODS, PLAIN_METHODS

SETTINGS = FaceVideoSettings(
    clips=1, frames=2, size=48, methods=("swap_alpha", "down_up"), unseen_methods=("self_blend",),
    levels=("raw", "c40"), shares=(0.5, 0.0, 0.5),
)  # fmt: skip


def read(path):
    return np.array(Image.open(path).convert("RGB")).astype(float)


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and ".jobs" not in p.parts)
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest(), len(files)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    report = make_face_videos(folder, DrawnPeople(4, SETTINGS.side, 0), SETTINGS)
    return folder, read_manifest(folder / "manifest.csv"), report


def test_everything_is_recorded(clips):
    folder, manifest, report = clips
    # per identity a real clip and two forgeries, in test one more; two frames, two levels
    assert len(manifest) == report.rows == (2 * 3 + 2 * 4) * 2 * 2
    assert check_files(manifest) == []
    record = json.loads((folder / "clips.json").read_text())
    splits = {}
    for i in range(len(manifest)):
        row, video = manifest[i], manifest.name(i, "video")
        for column in ("source", "target"):
            splits.setdefault(manifest.name(i, column), set()).add(manifest.name(i, "split"))
        picture = Image.open(row.path)
        assert picture.size == (48, 48)
        if row.label:
            entry = record[video]
            assert entry["source"] == manifest.name(i, "source")
            assert entry["target"] == manifest.name(i, "target")
            donor = METHODS[manifest.name(i, "method")].needs_donor
            assert (entry["source"] != entry["target"]) == donor
            assert row.paired_real.endswith(f"{row.path[-8:]}")
            assert f"/{row.compression}/real/" in row.paired_real
        else:
            assert row.paired_real == row.mask == ""
    assert all(len(found) == 1 for found in splits.values())  # no identity in two splits
    in_train = manifest.select({"split": ["train"]})
    used = {in_train.name(i, "method") for i in range(len(in_train))}
    assert used == {"real", "swap_alpha", "down_up"}


def test_fakes_differ_from_their_real_frame_inside_of_the_mask(clips):
    _, manifest, _ = clips
    raw = manifest.select({"compression": ["raw"], "method": ["swap_alpha"]})
    assert len(raw)
    for i in range(len(raw)):
        row = raw[i]
        difference = np.abs(read(row.path) - read(row.paired_real)).mean(axis=2)
        mask = read(row.mask)[..., 0] > 0
        assert 0.05 < mask.mean() < 0.6
        assert difference[mask].mean() > 4 * difference[~mask].mean()


def test_strong_compression_is_further_away(clips):
    folder, manifest, _ = clips
    for i in range(len(manifest)):
        row = manifest[i]
        if row.compression == "c40":
            raw = row.path.replace("/c40/", "/raw/")
            assert ((read(row.path) - read(raw)) ** 2).mean() > 4


def test_one_seed_one_set_whatever_the_workers_and_interruptions(clips, tmp_path):
    folder, _, _ = clips
    people = DrawnPeople(4, SETTINGS.side, 0)
    make_face_videos(tmp_path, people, SETTINGS, workers=1)
    assert digest(tmp_path) == digest(folder)
    unfinished = sorted((tmp_path / ".jobs").glob("p*.json"))[0]
    unfinished.unlink()
    report = make_face_videos(tmp_path, people, SETTINGS)
    assert report.reused == 3
    assert digest(tmp_path) == digest(folder)
    with pytest.raises(ValueError, match="other arguments"):
        make_face_videos(tmp_path, people, replace(SETTINGS, seed=1))


@pytest.mark.parametrize("method", sorted(PLAIN_METHODS))
def test_a_clip_is_forged_with_one_set_of_parameters(method):
    people = DrawnPeople(2, 96, 0)
    faces, donors = people.clip(0, 0, 3), people.donor(1, 0, 0, 3)
    drawn = []
    for frame in range(3):
        one = donors[frame : frame + 1] if METHODS[method].needs_donor else None
        _, masks, parameters = forge_clip(faces[frame : frame + 1], one, method=method, seed=(5,))
        assert masks[0].any()
        parameters.pop("donor_scale", None)  # follows the pose
        drawn.append(json.dumps(_without_lengths(parameters), sort_keys=True))
    assert len(set(drawn)) == 1


def _without_lengths(value):
    """Lengths in pixels scale with the face, which turns; what is drawn does not."""
    if isinstance(value, dict):
        return {k: _without_lengths(v) for k, v in value.items() if k not in ("shift", "elastic")}
    return value


def test_an_identity_looks_like_itself():
    people = DrawnPeople(3, 96, 0)
    tone = [[np.median(f.image[f.mask], axis=0) for f in people.clip(i, 0, 4)] for i in range(3)]
    for identity, tones in enumerate(tone):
        own = max(np.abs(a - b).max() for a in tones for b in tones)
        other = min(
            np.abs(a - b).max() for k in range(3) if k != identity for a in tones for b in tone[k]
        )
        assert own < other


def test_bad_settings():
    for change, words in (
        ({"methods": ("morph",)}, "no forgery method 'morph'"),
        ({"levels": ("c99",)}, "compression is"),
        ({"size": 47}, "even"),
        ({"frames": 0}, "one or more"),
        ({"shares": (0.0, 0.0, 0.0)}, "shares"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(SETTINGS, **change)
    with pytest.raises(ValueError, match="one identity"):
        plan(DrawnPeople(3, SETTINGS.side, 0), SETTINGS)


def test_photographed_people(tmp_path, picture_set):
    settings = replace(SETTINGS, methods=("swap_poisson",), unseen_methods=(), shares=(1, 0, 0))
    people = PhotoPeople(picture_set, 0, settings.side, 0)
    assert sorted(people.names) == ["ann", "b.png"]
    report = make_face_videos(tmp_path / "out", people, settings)
    assert report.rows == 2 * 2 * 2 * 2
    assert not report.faults
    (tmp_path / "b.png").write_bytes(b"broken")
    report = make_face_videos(tmp_path / "again", people, replace(settings, methods=("down_up",)))
    assert [name for name, _ in report.faults] == ["b.png_0"]
    assert "b.png" in report.faults[0][1]


@pytest.fixture
def picture_set(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    people = {"a.png": 1, "b.png": 1, "two.png": 2, "tiny.png": 1}
    for number, (name, faces) in enumerate(people.items()):
        coarse = Image.fromarray(rng.integers(60, 200, (6, 8, 3), dtype=np.uint8))
        coarse.resize((160, 120), 3).save(tmp_path / name)
        record = {"id": number, "file_name": name, "width": 160, "height": 120}
        images.append(record | ({"identity": "ann"} if name == "a.png" else {}))
        for face in range(faces):
            height = 10 if name == "tiny.png" else 60
            x = 10 + 80 * face
            points = [[x + 12, 40], [x + 34, 40], [x + 23, 52], [x + 14, 62], [x + 32, 62]]
            annotations.append(
                {
                    "id": len(annotations), "image_id": number, "category_id": 0,
                    "bbox": [x, 20, 46, height], "keypoints5": points, "iscrowd": 0,
                }
            )  # fmt: skip
    path = tmp_path / "annotations.json"
    categories = [{"id": 0, "name": "real_face"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path

"""datasets/prepare_forged.py on a small folder of the layout that it is for."""

import csv
import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from comics.data.faces.checks import check_files, shared_groups
from comics.data.faces.manifest_files import read_manifest
from comics.data.images import read_image
from comics.data.preparation import Clip

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("prepare_forged", ROOT / "datasets/prepare_forged.py")
prepare_forged = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = prepare_forged  # dataclasses look their module up
SPEC.loader.exec_module(prepare_forged)

COLUMNS = ("set", "file", "label", "method", "group", "split", "original", "changed_share",
           "border_difference")  # fmt: skip
# The forgeries of a: aligned, not changed, shifted; of b, whose original is not there
DFDC = (
    ("real/a", "real", "a", "train", "", "", ""),
    ("fake/a1", "fake", "a", "train", "a", "0.3", "2.5"),
    ("fake/a2", "fake", "a", "train", "a", "0.019", "2.5"),
    ("fake/a3", "fake", "a", "train", "a", "0.3", "8.1"),
    ("fake/b1", "fake", "b", "test", "", "", ""),
)


def write_index(root, rows):
    with open(root / "index.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


@pytest.fixture
def restored(tmp_path):
    root = tmp_path / "forged"
    rows = []
    coarse = np.random.default_rng(0).integers(40, 200, (5, 5, 3), dtype=np.uint8)
    face = np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    for name, label, group, split, original, changed, border in DFDC:
        pixels = face.copy()
        if label == "fake":
            pixels[30:70, 25:65] = 255 - pixels[30:70, 25:65]
        path = root / "dfdc224" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)
        rows.append(("dfdc224", f"dfdc224/{name}.jpg", label, "DFDC", group, split, original,
                     changed, border))  # fmt: skip
    for label in ("real", "fake"):
        path = root / "stylegan_140k" / label / "x.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(face).save(path)
        method = "FFHQ" if label == "real" else "StyleGAN"
        rows.append(("stylegan_140k", f"stylegan_140k/{label}/x.jpg", label, method, "", "val",
                     "", "", ""))  # fmt: skip
    write_index(root, rows)
    return root, rows


def run(root, output, *words):
    return prepare_forged.main([str(root), "--output", str(output), "--quiet", *words])


def test_rows_masks_and_what_is_dropped(restored, tmp_path, capsys):
    root, _ = restored
    assert run(root, tmp_path / "out") == 0
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert check_files(manifest) == shared_groups(manifest) == []
    found = {Path(manifest[n].path).stem: n for n in range(len(manifest)) if manifest.labels[n]}
    assert set(found) == {"a1", "a3", "b1", "x"}
    aligned = manifest[found["a1"]]
    assert read_image(aligned.paired_real).shape == (96, 96, 3)
    mask = read_image(aligned.mask)[..., 0] > 127
    region = np.zeros((96, 96), bool)
    region[30:70, 25:65] = True
    assert (mask & region).sum() / (mask | region).sum() > 0.7
    for name in ("a3", "b1", "x"):  # not aligned, or without original: no mask from these
        assert (manifest[found[name]].paired_real, manifest[found[name]].mask) == ("", "")
    columns = ("set", "group", "target", "split", "method")
    values = [manifest.name(found["a1"], column) for column in columns]
    assert values == ["dfdc224", "a", "a", "train", "DFDC"]
    assert "6 rows, 1 with a mask; 1 forgeries that show their original left out" in (
        capsys.readouterr().out
    )
    assert run(root, tmp_path / "out", "--sets", "stylegan_140k") == 0
    assert len(read_manifest(tmp_path / "out/manifest.csv")) == 2


def test_missing_and_broken_files_are_named(restored, tmp_path, capsys):
    root, _ = restored
    (root / "dfdc224/fake/b1.jpg").unlink()
    (root / "dfdc224/fake/a1.jpg").write_bytes(b"x")
    assert run(root, tmp_path / "out") == 3
    shown = capsys.readouterr()
    assert "b1.jpg" in shown.err and "a1.jpg" in shown.err and "2 files skipped" in shown.out
    assert len(read_manifest(tmp_path / "out/manifest.csv")) == 4


CHANGES = {
    "there are no rows": lambda rows: rows.clear(),
    "no file below the root": lambda rows: rows.append(("s", "../x", *"rmgs", "", "", "")),
    "is no number": lambda rows: rows.append(("s", "x", "fake", *"mgs", "", "some", "")),
    "its original dfdc224/real/a": lambda rows: rows.append((*rows[1][:5], "val", *rows[1][6:])),
    "picture ": lambda rows: rows.append((*rows[3][:4], "z", "val", "", "", "")),
}


@pytest.mark.parametrize("words", CHANGES)
def test_an_index_that_cannot_be_used(restored, tmp_path, words, capsys):
    root, rows = restored
    CHANGES[words](rows)
    write_index(root, rows)
    assert run(root, tmp_path / "out") == 2
    assert words in capsys.readouterr().err


def test_no_index(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "out") == 2
    assert "run restore.py" in capsys.readouterr().err


def test_clips_are_cut_in_their_originals_frames_and_boxes(restored, tmp_path, monkeypatch):
    root, rows = restored
    names = ("real/youtube_1", "fake/Deepfakes_1_2", "fake/Deepfakes_2_1", "real/youtube_2")
    for name in names:
        label, group = name.partition("/")[0], name.split("_")[1]
        write_clip(root / f"ffpp_c40/{name}.avi", int(group))
        rows.append(("ffpp_c40", f"ffpp_c40/{name}.avi", label, "Deepfakes" if label == "fake" else
                     "original youtube", group, "test", "", "", ""))  # fmt: skip
    write_index(root, rows)
    looked_at = []

    def boxes(self, clip, frames):
        looked_at.append(clip)
        return {position: [(10, 10, 50, 60)] for position in frames}

    monkeypatch.setattr(prepare_forged.DetectorBoxes, "__call__", boxes)
    assert run(root, tmp_path / "out", "--sets", "ffpp_c40", "--frames", "3") == 0
    assert looked_at == ["ffpp_c40/real/youtube_1.avi", "ffpp_c40/real/youtube_2.avi"]
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert len(manifest) == 4 * 3 and check_files(manifest) == []
    # Two people that are swapped with one another are one group
    assert {manifest.name(n, "group") for n in range(12)} == {"ffpp_c40/1"}
    assert {manifest.name(n, "split") for n in range(12)} == {"test"}
    assert read_image(manifest[0].path).shape == (65, 65, 3)  # 1.3 x the longer side, 50
    fake = next(n for n in range(12) if manifest.name(n, "video").endswith("Deepfakes_1_2"))
    assert (manifest.name(fake, "source"), manifest.name(fake, "target")) == ("2", "1")
    assert read_image(manifest[fake].paired_real).shape == (65, 65, 3)


def write_clip(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 80))
    for frame in np.random.default_rng(seed).integers(0, 256, (6, 80, 96, 3), dtype=np.uint8):
        writer.write(frame)
    writer.release()


def test_identities_that_are_swapped_in_a_chain_are_one_group():
    swaps = [("b", "a"), ("c", "b"), ("e", "d")]
    clips = [Clip(f"{s}{t}", "", 1, source=s, target=t) for s, t in swaps]
    joined = prepare_forged.connected_targets([prepare_forged.ClipGroup("", tuple(clips))])
    assert joined["a"] == joined["b"] == joined["c"] != joined["d"] == joined["e"]

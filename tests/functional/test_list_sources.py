import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from comics.data.faces.manifest_files import read_manifest, write_manifest

LAB = Path(__file__).resolve().parents[2] / "tools" / "lab"
sys.path.insert(0, str(LAB))
import list_sources as tool  # noqa: E402


def own_set(folder, forged):
    """One photo of two faces of 40 pixels and a small one; which are forged."""
    folder.mkdir()
    boxes = [[10, 10, 40, 44], [70, 12, 40, 40], [5, 90, 8, 9]]
    faces = [
        {"id": n + 1, "image_id": 1, "bbox": box, "category_id": int(n in forged), "iscrowd": 0,
         "method": "swap_alpha" if n in forged else None}
        for n, box in enumerate(boxes)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "images/1.jpg"}], "annotations": faces,
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
    }  # fmt: skip
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def forged_set(folder):
    folder.mkdir()
    rows = [
        {"path": f"{group}_{label}_{number}.jpg", "label": label, "split": "train",
         "method": "real" if label == "real" else "DFDC", "set": "dfdc224",
         "group": f"clip{group}"}
        for group in range(6)
        for label, count in (("real", 1), ("fake", 3))
        for number in range(count)
    ]  # fmt: skip
    rows.append({**rows[-1], "path": "alone.jpg", "group": "without_real"})
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def test_lists_of_own_photos_and_forged_clips(tmp_path, capsys):
    own = [own_set(tmp_path / "0", {0}), own_set(tmp_path / "1", {1})]
    words = ["--own", *map(str, own), "--forged", str(forged_set(tmp_path / "forged")),
             "--groups", "4", "--forged-each", "2", "--output", str(tmp_path / "out")]  # fmt: skip
    assert tool.main(words) == 0
    train = rows_of(tmp_path / "out" / "own_train.csv")
    assert len(train) == 4  # the small face is left out
    by_group = {}
    for row in train:
        by_group.setdefault(row["group"], set()).add(row["label"])
    assert list(by_group.values()) == [{"real", "fake"}] * 2  # each face real in one of the seeds
    assert len(rows_of(tmp_path / "out" / "own_val.csv")) == 2  # of the first seed only
    dfdc = rows_of(tmp_path / "out" / "dfdc_train.csv")
    assert len(dfdc) == 4 * 3 and "without_real" not in {row["group"] for row in dfdc}
    for group in {row["group"] for row in dfdc}:
        labels = sorted(row["label"].lower() for row in dfdc if row["group"] == group)
        assert labels == ["fake", "fake", "real"]
    manifest = read_manifest(tmp_path / "out" / "dfdc_train.csv")
    assert manifest[0].path.startswith(str(tmp_path / "forged"))
    reals = rows_of(tmp_path / "out" / "real_faces.csv")
    assert {row["label"].lower() for row in reals} == {"real"}
    assert [row["set"] for row in reals if row["split"] == "train"] == ["own"] * 2 + ["dfdc"] * 2
    assert "own_train.csv: 4 faces" in capsys.readouterr().out


def test_pairs_get_the_box_inside_of_their_margin(tmp_path):
    for kind in ("real", "neural"):
        cv2.imwrite(str(tmp_path / f"{kind}.png"), np.zeros((130, 130, 3), np.uint8))
    write_manifest(tmp_path / "faces.csv", [
        {"path": "real.png", "label": "real", "video": "p#1", "split": "val"},
        {"path": "neural.png", "label": "fake", "method": "neural_trace", "split": "val",
         "video": "p#1+neural_trace"},
    ])  # fmt: skip
    words = ["--pairs", str(tmp_path / "faces.csv"), "--output", str(tmp_path / "out")]
    assert tool.main(words) == 0
    rows = rows_of(tmp_path / "out" / "autoencoder_val.csv")
    assert {row["group"] for row in rows} == {"p#1"}
    assert [float(rows[0][c]) for c in ("x0", "y0", "x1", "y1")] == pytest.approx(
        [15, 15, 115, 115]
    )


def test_nothing_to_list(tmp_path, capsys):
    assert tool.main(["--output", str(tmp_path)]) == 2
    assert "nothing to list" in capsys.readouterr().err

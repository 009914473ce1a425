"""tools/cluster_faces.py: clusters follow content, and end in the manifest."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comics.data.faces.manifest_files import write_manifest
from comics.engine.cluster_faces import cluster_features, label_agreement

TOOL = Path(__file__).resolve().parents[2] / "tools" / "cluster_faces.py"
SMALL = ["MODEL.FACE.ENCODER", "SmallResNet", "MODEL.FACE.CROP_SIZE", "32"]
SMALL += ["DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]


def run(*words):
    return subprocess.run(
        [sys.executable, *map(str, (TOOL, *words))], capture_output=True, text=True
    )


@pytest.fixture
def manifest(tmp_path):
    """Dark and bright pictures in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        picture = rng.integers(0, 60, (32, 32, 3)) + 180 * (number % 2)
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"path": f"{number}.png", "label": number // 6, "video": f"v{number}"})
    write_manifest(tmp_path / "faces.csv", rows)
    return tmp_path / "faces.csv"


def clusters_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["cluster"] for row in csv.DictReader(file)]


def test_faces_of_a_kind_share_a_cluster_and_a_broken_one_has_none(manifest):
    (manifest.parent / "5.png").write_bytes(b"")
    done = run(manifest, "--output", manifest.with_name("new.csv"), "--clusters", "2", *SMALL)
    assert done.returncode == 3, done.stderr
    assert "5.png" in done.stderr
    assert "random weights" in done.stdout
    found = clusters_of(manifest.with_name("new.csv"))
    assert found.pop(5) == ""
    dark, bright = set(found[0:5:2] + found[5::2]), set(found[1:5:2] + found[6::2])
    assert len(dark) == len(bright) == 1
    assert dark != bright
    assert set(clusters_of(manifest)) == {""}


def test_more_clusters_than_faces_is_an_error_and_changes_nothing(manifest):
    before = manifest.read_bytes()
    done = run(manifest, "--clusters", "13", *SMALL)
    assert done.returncode == 2
    assert "NUM_CLUSTERS" in done.stderr
    assert manifest.read_bytes() == before


def test_clusters_are_those_that_the_features_were_drawn_around():
    rng = np.random.default_rng(0)
    centres = np.eye(4, 8)
    truth = rng.integers(0, 4, 200)
    numbers = cluster_features(centres[truth] + 0.05 * rng.standard_normal((200, 8)), 4, seed=0)
    pairs = {(int(t), int(n)) for t, n in zip(truth, numbers, strict=True)}
    assert len(pairs) == 4


def test_clusters_by_label_are_told_from_clusters_by_content(manifest):
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    content = rng.integers(0, 50, 4000)
    assert abs(label_agreement(content, labels)) < 0.02
    assert label_agreement(2 * content + labels, labels) > 0.98
    assert label_agreement(content, np.zeros(4000)) == 0
    half = np.where(np.arange(4000) < 2000, content, 2 * content + labels + 100)
    assert 0.3 < label_agreement(half, labels) < 0.7
    # Labels and brightness are one here
    rows = list(csv.DictReader(manifest.open()))
    for number, row in enumerate(rows):
        row["label"] = number % 2
    write_manifest(manifest, [{k: v for k, v in row.items() if v != ""} for row in rows])
    done = run(manifest, "--clusters", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "they tell 1.00 of the labels" in done.stdout
    assert "not of content alone" in done.stderr


def test_an_encoder_that_saw_forgeries_is_told(manifest, tmp_path):
    from comics.config import load_config
    from comics.modeling.faces.build import build_face_method
    from comics.modeling.weights import save_weights

    cfg = load_config(None, ["MODEL.META_ARCHITECTURE", "FaceMethod", *SMALL])
    state = build_face_method(cfg).inference_state_dict()
    save_weights(tmp_path / "ce.safetensors", state, cfg, {})
    for words in (
        ["--weights", tmp_path / "ce.safetensors"],
        [*SMALL, "MODEL.FACE.ENCODER_WEIGHTS", tmp_path / "ce.safetensors"],
    ):
        done = run(manifest, "--clusters", "2", *words)
        assert done.returncode == 0, done.stderr
        assert "ce.safetensors was trained on forgeries" in done.stderr

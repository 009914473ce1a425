import numpy as np
import pytest

from comics.data.faces.manifest_files import read_manifest
from comics.data.faces.pairs import PairIndex


@pytest.fixture
def index(face_set):
    manifest = read_manifest(face_set)
    table = [
        {name: manifest.name(i, name) for name in ("video", "source", "target", "compression")}
        | {"frame": int(manifest.frames[i]), "label": int(manifest.labels[i])}
        for i in range(len(manifest))
    ]
    return PairIndex(manifest), table


def drawn(look_up, times=60):
    rng = np.random.default_rng(0)
    return {look_up(rng) for _ in range(times)}


def test_partners_are_those_of_a_naive_search(index):
    pairs, table = index
    for i, row in enumerate(table):
        same = [j for j, other in enumerate(table) if j != i]
        same = [j for j in same if table[j]["compression"] == row["compression"]]
        clip = {j for j in same if table[j]["video"] == row["video"]}
        assert drawn(lambda rng, i=i: pairs.other_frame(i, rng)) == clip
        near = {j for j in clip if abs(table[j]["frame"] - row["frame"]) == 10}
        assert drawn(lambda rng, i=i: pairs.near_frame(i, 1, rng)) == near
        assert drawn(lambda rng, i=i: pairs.near_frame(i, 5, rng)) == clip
        kin = {
            j
            for j in same
            if table[j]["label"] == row["label"]
            and table[j]["video"] != row["video"]
            and (
                table[j]["target"] == row["target"]
                or (row["label"] == 1 and table[j]["source"] == row["source"])
            )
        }
        assert drawn(lambda rng, i=i: pairs.semantic(i, rng), 300) == (kin or {None})
        peers = {j for j in same if table[j]["label"] == row["label"]}
        assert drawn(lambda rng, i=i: pairs.same_class(i, rng), 600) == peers


def test_other_compression(index):
    pairs, table = index
    for i, row in enumerate(table):
        for level in ("c23", "c40"):
            j = pairs.at_compression(i, level)
            assert table[j] == row | {"compression": level}
        assert pairs.at_compression(i, "raw") is None


def test_rows_without_clip_or_identity_have_no_partner(write_csv):
    manifest = read_manifest(write_csv([{"path": f"{i}.png", "label": "fake"} for i in range(3)]))
    pairs, rng = PairIndex(manifest), np.random.default_rng(0)
    assert pairs.other_frame(0, rng) is None
    assert pairs.near_frame(0, 2, rng) is None
    assert pairs.semantic(0, rng) is None
    assert pairs.at_compression(0, "c40") is None
    assert drawn(lambda rng: pairs.same_class(1, rng)) == {0, 2}


def test_reals_of_one_identity_in_different_clips(write_csv):
    rows = [
        {
            "path": f"{i}.png",
            "label": "real",
            "target": "ann" if i < 3 else "bob",
            "video": f"v{i % 3}",
        }
        for i in range(6)
    ]
    pairs = PairIndex(read_manifest(write_csv(rows)))
    assert drawn(lambda rng: pairs.semantic(0, rng)) == {1, 2}
    assert drawn(lambda rng: pairs.semantic(4, rng)) == {3, 5}


def test_a_single_row_of_a_class(write_csv):
    rows = [{"path": "a", "label": "real"}, {"path": "b", "label": "fake"}]
    pairs = PairIndex(read_manifest(write_csv(rows)))
    assert pairs.same_class(0, np.random.default_rng(0)) is None

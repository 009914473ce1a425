import json

import numpy as np
import pytest

from comics.data.faces.checks import check_files, require_both_classes, shared_groups, summary
from comics.data.faces.manifest import PackedStrings, join_manifests, split_entry
from comics.data.faces.manifest_files import read_manifest, write_clusters, write_manifest
from comics.data.records import DatasetError

GOOD = {"path": "a.png", "label": "real", "x0": "", "y0": "", "x1": "", "y1": "", "frame": "",
        "video": "", "method": "", "source": "", "target": "", "cluster": ""}  # fmt: skip


def test_reads_every_column(face_set):
    manifest = read_manifest(face_set)
    assert len(manifest) == 3 * 3 * 3 * 2
    row = manifest[6 + 1]  # blend, person 0, frame 0, c40
    assert row.path == str(face_set.parent / "blend_0_0_c40.png")
    assert row.paired_real == str(face_set.parent / "real_0_0_c40.png")
    assert (row.label, row.compression, row.box) == (1, "c40", None)
    assert manifest.name(7, "video") == "blend/0"
    assert manifest.names["method"] == ("blend", "real", "swap")
    assert manifest.names["source"] == manifest.names["target"] == ("id0", "id1", "id2")
    assert manifest.frames[7] == 0
    assert manifest.clusters[7] == 0
    assert check_files(manifest) == []
    assert "9  train / real / c23" not in summary(manifest)  # six: two people, three frames
    assert "6  train / real / c23" in summary(manifest)


def test_a_real_face_has_one_identity_in_both_columns(write_csv):
    manifest = read_manifest(write_csv([GOOD | {"target": "ann"}]))
    assert manifest.name(0, "source") == manifest.name(0, "target") == "ann"
    assert manifest.name(0, "method") == "real"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "maybe"}, ["line 3", "maybe", "real or fake"]),
        ({"label": ""}, ["line 3", "label"]),
        ({"path": ""}, ["line 3", "path"]),
        ({"x0": "1", "y0": "2", "x1": "1", "y1": "5"}, ["line 3", "no area"]),
        ({"x0": "1", "y0": "2", "x1": "nan", "y1": "5"}, ["line 3", "no area"]),
        ({"x0": "1", "y0": "2", "x1": "z", "y1": "5"}, ["line 3", "not four numbers"]),
        ({"x0": "1"}, ["line 3", "not four numbers"]),
        ({"frame": "-2"}, ["line 3", "frame", "-2"]),
        ({"cluster": "1.5"}, ["line 3", "cluster", "1.5"]),
        ({"label": "fake", "method": "real"}, ["line 3", "fake whose method"]),
        ({"method": "swap"}, ["line 3", "real face whose method"]),
    ],
)
def test_faulty_rows_are_named(write_csv, change, words):
    path = write_csv([GOOD, GOOD | change])
    with pytest.raises(DatasetError) as error:
        read_manifest(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label,colour\na.png,real,red\n", ["unknown", "'colour'"]),
        ("path\na.png\n", ["missing", "'label'"]),
        ("path,label,label\na,real,real\n", ["repeated", "'label'"]),
        ("path,label\n", ["no rows"]),
        ("", ["missing"]),
        ("path,label\na.png\n", ["line 2", "2 fields"]),
        ("path,label\na.png,real,more\n", ["line 2", "2 fields"]),
        ('path,label\n"a.png,real\n', ["not a readable CSV"]),
    ],
)
def test_faulty_files_are_named(tmp_path, text, words):
    path = tmp_path / "faces.csv"
    path.write_text(text)
    with pytest.raises(DatasetError) as error:
        read_manifest(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_absent_file(tmp_path):
    with pytest.raises(DatasetError, match="no manifest"):
        read_manifest(tmp_path / "none.csv")


def test_a_frame_that_is_listed_twice_is_refused(write_csv):
    row = GOOD | {"video": "v", "frame": "3"}
    with pytest.raises(DatasetError, match="line 4: the same video .'v'.*line 2"):
        read_manifest(write_csv([row, row | {"frame": "4"}, row]))
    assert len(read_manifest(write_csv([row | {"video": ""}] * 2))) == 2  # no clip: no pair


def test_missing_files_pairs_and_masks_are_listed(write_csv, tmp_path, picture):
    row = GOOD | {"label": "fake", "paired_real": "p.png", "mask": "m.png", "method": "swap"}
    faults = check_files(read_manifest(write_csv([row])))
    assert [fault.code for fault in faults] == ["missing-file", "missing-pair", "missing-mask"]
    assert all("line 2" in str(fault) for fault in faults)
    rle = json.dumps({"size": [2, 2], "counts": "04"})
    manifest = read_manifest(write_csv([row | {"mask": rle}]))
    assert [fault.code for fault in check_files(manifest)] == ["missing-file", "missing-pair"]


def test_a_class_that_is_absent(write_csv):
    manifest = read_manifest(write_csv([GOOD]))
    with pytest.raises(DatasetError, match=r"faces\.csv: none of 1 rows is fake"):
        require_both_classes(manifest, "training")


def test_selection_and_entries(face_set):
    path, conditions = split_entry(f"{face_set}@split=test,method=real|swap,compression=c40")
    assert path == str(face_set)
    manifest = read_manifest(path).select(conditions)
    assert len(manifest) == 2 * 3
    assert {manifest.name(i, "video") for i in range(6)} == {"real/2", "swap/2"}
    assert split_entry("a.json") is None
    assert split_entry("openforensics_train") is None
    with pytest.raises(DatasetError, match="split"):
        split_entry("a.csv@split")
    with pytest.raises(DatasetError, match="no row with split=dev.*there is split: test, train"):
        manifest.select({"split": ["dev"]})
    with pytest.raises(DatasetError, match="not 'path'"):
        manifest.select({"path": ["a"]})


def test_joined_manifests_keep_names_apart_and_together(face_set, tmp_path):
    whole = read_manifest(face_set)
    parts = [whole.select({"method": [name]}) for name in ("swap", "real", "blend")]
    (tmp_path / "more").mkdir()
    write_manifest(
        tmp_path / "more/other.csv",
        [{"path": "x.png", "label": "fake", "method": "new", "target": "id1", "video": "n"}],
    )
    joined = join_manifests([*parts, read_manifest(tmp_path / "more/other.csv")])
    assert len(joined) == len(whole) + 1
    paths = {joined[i].path: joined.name(i, "video") for i in range(len(joined))}
    expected = {whole[i].path: whole.name(i, "video") for i in range(len(whole))}
    assert paths == expected | {str(tmp_path / "more/x.png"): "n"}
    assert joined.name(len(whole), "target") == "id1"
    assert joined.name(len(whole), "source") == ""
    assert joined.place(len(whole)) == f"{tmp_path}/more/other.csv, line 2"


def test_written_clusters_are_read_again(face_set):
    count = len(read_manifest(face_set))
    numbers = np.arange(count) % 5 - 1
    write_clusters(face_set, face_set, numbers)
    assert read_manifest(face_set).clusters.tolist() == numbers.tolist()
    with pytest.raises(ValueError, match="clusters"):
        write_clusters(face_set, face_set, [1])


def test_packed_strings():
    strings = ["", "a", "ä\udcff", "", "long" * 100]
    packed = PackedStrings.pack(strings)
    assert list(packed) == strings
    assert list(packed.take(np.array([4, 0, 2]))) == [strings[4], "", strings[2]]
    with pytest.raises(IndexError):
        packed[5]


SHARED = {"path": "a.png", "label": "real", "split": "train", "group": "", "video": "",
          "paired_real": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"group": "ann"}, "shared-group"),
        ({"video": "clip"}, "shared-video"),
        ({"path": "./x/../a.png"}, "shared-picture"),
        ({"label": "fake", "paired_real": "a.png"}, "shared-picture"),
        ({"split": "train", "group": "ann", "video": "clip"}, None),
        ({"group": "bob", "video": ""}, None),
    ],
)
def test_what_two_splits_share(write_csv, other, code):
    one = SHARED | {"group": "ann", "video": "clip"}
    two = SHARED | {"path": "b.png", "split": "test"} | other
    faults = shared_groups(read_manifest(write_csv([one, two, two | {"path": "c.png"}])))
    assert [fault.code for fault in faults] == ([code] if code else [])
    assert not faults or ("line 3" in faults[0].place and "line 2" in faults[0].message)


def test_what_two_manifests_without_splits_share(write_csv):
    rows = [SHARED | {"split": "", "group": "ann"}]
    paths = [write_csv(rows, "one.csv"), write_csv([rows[0] | {"path": "b.png"}], "two.csv")]
    (fault,) = shared_groups(join_manifests([read_manifest(path) for path in paths]))
    assert "two.csv" in fault.place and "one.csv" in fault.message
    # Of the same split they are meant to be one set
    joined = [read_manifest(write_csv([rows[0] | {"split": "val"}], f"{n}.csv")) for n in "ab"]
    assert shared_groups(join_manifests(joined)) == []


def test_rows_are_chosen_by_set_and_group(write_csv):
    path = write_csv([SHARED | {"set": "s", "group": "g"}, SHARED | {"set": "t", "group": "h"}])
    manifest = read_manifest(path)
    assert len(manifest.select({"set": ["s"]})) == len(manifest.select({"group": ["h"]})) == 1

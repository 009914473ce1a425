"""``comics manifest``: what becomes of folders of real and of forged faces."""

import numpy as np
import pytest
from PIL import Image

from comics import cli
from comics.data.faces.folders import SplitShares
from comics.data.faces.manifest_files import read_manifest


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """30 people: a real picture and one of each of two methods."""
    monkeypatch.chdir(tmp_path)
    for person in range(30):
        for number, kind in enumerate(("real", "swap", "gan")):
            save(tmp_path / kind / "deep" / f"id{person:02d}_{kind}.png", 100 * number + person)
    return tmp_path


def run(*words):
    return cli.main(["manifest", *map(str, words)])


def rows(path):
    manifest = read_manifest(path)
    columns = ("group", "split", "method", "set")
    return [
        (manifest[n].path, manifest[n].label, *(manifest.name(n, c) for c in columns))
        for n in range(len(manifest))
    ]


def test_groups_go_to_one_split_whatever_else_is_there(folders, capsys):
    words = ("--real", "real", "--fake", "swap", "gan", "--group-pattern", r"(id\d+)_")
    words += ("--split", "50,25,25")
    assert run(*words, "--output", "out/faces.csv", "--set", "mine") == 0
    found = rows(folders / "out/faces.csv")
    assert len(found) == 90 and all((folders / "out" / row[0]).is_file() for row in found)
    splits = {}
    for _, label, group, split, method, name in found:
        assert splits.setdefault(group, split) == split
        assert (method, name) == ("real", "mine") if not label else method in ("swap", "gan")
    assert set(splits) == {f"id{person:02d}" for person in range(30)}
    assert set(splits.values()) == {"train", "val", "test"}
    assert "90 pictures in 30 groups" in capsys.readouterr().out
    for person in range(15):  # fewer people: those that stay keep their splits
        for kind in ("real", "swap", "gan"):
            (folders / kind / "deep" / f"id{person:02d}_{kind}.png").unlink()
    assert run(*words, "--output", "out/faces.csv") == 0
    assert all(splits[group] == split for _, _, group, split, *_ in rows(folders / "out/faces.csv"))


def test_a_split_without_pictures_is_told(folders, capsys):
    """All pictures in one group: the other two splits have none."""
    assert run("--real", "real", "--fake", "swap", "--group-pattern", "id") == 0
    assert capsys.readouterr().err.count("has no real picture") == 2


def test_shares_of_the_splits():
    shares = SplitShares(0.7, 0.2, 0.1)
    splits = [shares.split(f"group {number}") for number in range(4000)]
    for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        # Four standard deviations of a share of 4000 draws are at most 0.032
        assert abs(splits.count(split) / 4000 - share) < 0.032
    assert {SplitShares(0, 1, 0).split(str(n)) for n in range(50)} == {"val"}


def test_without_a_pattern_pictures_of_one_name_stay_together(folders, capsys):
    for kind in ("real", "swap"):
        for path in sorted((folders / kind / "deep").iterdir()):
            path.rename(path.with_name(path.name.partition("_")[0] + ".png"))
    assert run("--real", "real", "--fake", "swap") == 0
    splits = {}
    for _, _, group, split, *_ in rows("manifest.csv"):
        assert splits.setdefault(group, split) == split
    assert len(splits) == 30
    assert "no --group-pattern" in capsys.readouterr().err
    assert run("--real", "real", "--fake", "swap", "--split", "test") == 0
    assert {row[3] for row in rows("manifest.csv")} == {"test"}


def test_what_is_left_out_is_named(folders, capsys):
    inner = folders / "real/deep"
    (inner / "id00_real.png").write_bytes(b"broken")
    (inner / "cut.png").write_bytes((inner / "id01_real.png").read_bytes()[:60])
    (inner / "again.png").write_bytes((inner / "id02_real.png").read_bytes())
    (inner / "notes.txt").write_text("x")
    (inner / ".hidden.png").write_text("x")
    assert run("--real", "real", "--fake", "swap", "--split", "none") == 3
    shown = capsys.readouterr().err
    for words in ("id00_real.png: ", "cut.png: ", "another one, left out: real/deep/id02_real.png",
                  "no picture, left out: real/deep/notes.txt"):  # fmt: skip
        assert words in shown
    assert ".hidden" not in shown
    assert len(rows("manifest.csv")) == 59


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--real", "none", "--fake", "swap"], "there is no folder none"),
        (
            ["--real", "empty", "--fake", "swap"],
            "empty: there is no picture in this folder of real",
        ),
        (
            ["--real", "broken", "--fake", "swap"],
            "none of 1 real pictures can be read: broken/a.png",
        ),
        (["--real", "real", "--fake", "copy"], "1 pictures are in a real and in a forged folder"),
        (["--real", "real", "--fake", "real"], "30 pictures are in a real and in a forged folder"),
        (["--real", "real", "--fake", "swap", "--group-pattern", "xx"], "'xx' matches none of 60"),
        (["--real", "real", "--fake", "swap", "--group-pattern", "("], "no regular expression"),
        (["--real", "real", "--fake", "swap", "--split", "80,30,10"], "add up to 100"),
        (["--real", "real", "--fake", "swap", "--split", "half"], "train, val, test, none"),
    ],
)
def test_what_is_refused(folders, words, message, capsys):
    (folders / "empty").mkdir()
    (folders / "broken").mkdir()
    (folders / "broken/a.png").write_bytes(b"x")
    save(folders / "copy/other.png", 3)  # the content of a real one
    assert run(*words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("comics manifest: ") and message in shown
    assert not (folders / "manifest.csv").exists()


def test_a_folder_named_twice_counts_once(folders):
    assert run("--real", "real", "real/deep", "--fake", "swap") == 0
    assert len(rows("manifest.csv")) == 60


@pytest.mark.parametrize("words", [["--real", "real"], ["--fake", "swap"]])
def test_one_label_alone(folders, words):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2

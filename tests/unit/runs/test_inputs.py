import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comics.runs.inputs import NOT_FETCHED, expand_inputs, is_video


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.mp4", "notes.txt", "sub/e.json"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "tree"


def relative(found):
    return [str(file.relative) for file in found.files]


def test_folder_is_searched_recursively_in_order(tree):
    found = expand_inputs([tree])
    assert relative(found) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.mp4"]
    assert not found.faults


def test_named_file_is_taken_whatever_its_extension(tree):
    found = expand_inputs([tree / "notes.txt"])
    assert [file.path for file in found.files] == [tree / "notes.txt"]


def test_globs(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert relative(expand_inputs(["*.jpg"])) == ["b.jpg"]
    assert {f.path for f in expand_inputs(["**/*.[wm]*"]).files} == {
        Path("sub/c.webp"),
        Path("sub/deep/d.mp4"),
    }
    assert expand_inputs(["*.nope"]).faults == [(Path("*.nope"), "no file matches this pattern")]


def test_a_name_with_wildcards_that_exists_is_taken_as_it_is(tmp_path):
    for name in ("a[1].jpg", "a1.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert relative(expand_inputs([tmp_path / "a[1].jpg"])) == ["a[1].jpg"]


def test_each_file_once(tree):
    (tree / "again.jpg").symlink_to("b.jpg")
    found = expand_inputs([tree / "b.jpg", tree, tree / "sub/../b.jpg"])
    assert relative(found) == ["b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.mp4"]


def test_output_folder_is_passed_over(tree):
    assert relative(expand_inputs([tree], exclude=tree / "sub")) == ["a.PNG", "b.jpg"]


def test_a_pattern_passes_over_the_output_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    found = expand_inputs(["**/*.[wm]*", "sub*"], exclude=Path("sub/deep"))
    assert relative(found) == ["c.webp"]


def test_broken_entries_are_reported_and_the_rest_found(tree):
    (tree / "dangling.jpg").symlink_to("nowhere.jpg")
    (tree / "loop.jpg").symlink_to("loop.jpg")
    (tree / "sub" / "up").symlink_to("..")
    os.mkfifo(tree / "pipe.png")
    found = expand_inputs([tree, tree / "missing.jpg"])
    assert relative(found) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.mp4"]
    assert dict(found.faults) == {
        tree / "dangling.jpg": "a symbolic link to nothing",
        tree / "loop.jpg": "Too many levels of symbolic links",
        tree / "pipe.png": "not a regular file",
        tree / "sub" / "up": "a symbolic link to a folder that contains it",
        tree / "missing.jpg": "no such file or folder",
    }


def test_linked_folders_are_followed(tree, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z.jpg").write_bytes(b"x")
    (tree / "link").symlink_to(tmp_path / "other")
    assert "link/z.jpg" in relative(expand_inputs([tree]))


def test_folder_without_permission_is_reported(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = expand_inputs([tree])
    assert relative(found) == ["a.PNG", "b.jpg"]
    assert found.faults == [(tree / "sub", "Permission denied")]


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"x")
    assert [file.relative for file in expand_inputs([tmp_path]).files] == [PurePath(name)]


def test_gif_is_a_video_only_if_it_moves(tmp_path):
    still, other = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "red")
    still.save(tmp_path / "still.gif")
    still.save(tmp_path / "moving.gif", save_all=True, append_images=[other])
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    names = ("still.gif", "moving.gif", "broken.gif", "a.MP4", "a.jpg")
    assert [is_video(tmp_path / name) for name in names] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("webcam:0", "webcam:0"),
        ("rtsp://host:554/stream?id=1", "rtsp://host:554/stream?id=1"),
        ("rtsps://me:p@ss@host/stream", "rtsps://host/stream"),
    ],
)
def test_live_sources_are_passed_on_without_their_credentials_in_names(source, shown):
    (file,) = expand_inputs([source, source]).files
    assert file.live == source
    assert file.name == shown
    assert "p@ss" not in f"{file.name} {file.path} {file.relative} {file.shard_name}"
    assert len(file.relative.parts) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [("http://host/a.jpg", NOT_FETCHED), ("file:///etc/passwd", NOT_FETCHED),
     ("webcam:x", "no such file or folder"), ("rtsp:", "no such file or folder")],
)  # fmt: skip
def test_other_addresses_are_no_sources(source, said):
    found = expand_inputs([source])
    assert not found.files and found.faults[0][1] == said


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_are_videos_and_stills_are_pictures(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(path, kind)
    assert not is_video(path)
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    assert is_video(path)
    path.write_bytes(b"broken")
    assert not is_video(path)


@given(st.text(max_size=60))
def test_no_argument_fails(argument):
    found = expand_inputs([f"/nowhere/{argument}"], listed=[f"/nowhere/{argument}"])
    assert not found.files and found.faults


@pytest.mark.parametrize(
    "address",
    ["https://user:secret@host/photo.jpg", "http://host/a?b=*.jpg", "ftp://h/x", "s3://b/k"],
)
def test_an_address_gets_a_sentence(address, tmp_path):
    found = expand_inputs([address], listed=[address])
    assert not found.files and len(found.faults) == 2
    for path, reason in found.faults:
        assert "nothing is fetched" in reason and "rtsp" in reason and "secret" not in str(path)
    # What is there is a file, whatever it is called
    name = tmp_path / "http:" / "a.jpg"
    name.parent.mkdir()
    name.write_bytes(b"x")
    assert [file.path for file in expand_inputs([name]).files] == [name]

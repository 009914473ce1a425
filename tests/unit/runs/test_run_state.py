import json
import os
from pathlib import Path, PurePath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.runs.inputs import InputFile
from comics.runs.outputs import FileStatus
from comics.runs.records import ImageRecord
from comics.runs.state import (
    ENTRIES,
    FILES,
    STATE_FOLDER,
    SettingsError,
    differences,
    file_key,
    open_state,
)
from comics.structures import Faces

SETTINGS = {"model": {"sha256": "abc", "thresholds": [0.5, 0.5]}, "stride": 1}


def one_face(score=0.9):
    return Faces(
        torch.tensor([[1.0, 2, 5, 8]]), (10, 12), torch.tensor([1]), torch.tensor([score]),
        fake_probability=torch.tensor([0.75]),
    )  # fmt: skip


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["a.jpg", "b.jpg", os.fsdecode(b"caf\xe9.jpg")]
    for name in names:
        (folder / name).write_bytes(b"content")
    return [InputFile(folder / name, PurePath(name)) for name in names]


def images(state, finished):
    """(entry of the picture or frame, entries of its faces) of a finished file."""
    return [(one.image, one.faces) for one in state.file_record(finished).images()]


def finish(state, file, frames=1):
    for frame in range(frames):
        state.add(ImageRecord.of(file.name, one_face(), frame, frame / 25, track_ids=[4]))
    status = FileStatus(file.name, "video", "ok", "forged_face_found", frames, frames)
    return state.finish(file_key(file), status, PurePath("sub/x"))


def test_what_is_finished_is_known_again_with_its_entries(tmp_path, files):
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert not any(state.finished(file) for file in files)
        before = [finish(state, files[0], 3), finish(state, files[2], 0)]
        entries = list(images(state, before[0]))
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert [state.finished(f) for f in files] == [before[0], None, before[1]]
        assert list(images(state, before[0])) == entries
        assert list(images(state, before[1])) == []
        assert state.bases() == [PurePath("sub/x")] * 2
        after = finish(state, files[1])
        assert len(list(images(state, after))) == 1
    image, faces = entries[2]
    assert (image["frame"], image["width"], image["height"]) == (2, 12, 10)
    assert faces[0]["bbox"] == [1, 2, 4, 6] and faces[0]["track_id"] == 4


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=2),
    st.lists(st.binary(max_size=20), min_size=2, max_size=2),
)
def test_whatever_a_killed_run_leaves_behind_is_cut_off(tmp_path_factory, shares, garbage):
    """Both files end at any byte: whole files before that count, nothing else does."""
    folder = tmp_path_factory.mktemp("killed")
    files = []
    for name in "abcd":
        (folder / name).write_bytes(b"content")
        files.append(InputFile(folder / name, PurePath(name)))
    out = folder / "out"
    with open_state(out, SETTINGS) as state:
        known = [finish(state, file, 1 + position) for position, file in enumerate(files)]
    places = [out / STATE_FOLDER / name for name in (FILES, ENTRIES)]
    lines = places[0].read_bytes().splitlines(keepends=True)
    ends = [
        place.stat().st_size * share // 1000 for place, share in zip(places, shares, strict=True)
    ]
    for place, end, rest in zip(places, ends, garbage, strict=True):
        place.write_bytes(place.read_bytes()[:end] + rest)
    with open_state(out, SETTINGS) as state:
        length = 0
        for position, (file, finished) in enumerate(zip(files, known, strict=True)):
            length += len(lines[position])
            whole = length <= ends[0] and finished.end <= ends[1]
            if whole:
                assert state.finished(file) == finished
                assert len(list(images(state, finished))) == 1 + position
        again = [finish(state, file) for file in files if state.finished(file) is None]
        assert all(len(list(images(state, one))) == 1 for one in again)
    with open_state(out, SETTINGS) as state:
        assert all(state.finished(file) for file in files)


def test_a_file_that_changed_is_not_finished(tmp_path, files):
    with open_state(tmp_path / "out", SETTINGS) as state:
        finish(state, files[0])
        finish(state, files[1])
        files[0].path.write_bytes(b"longer content")
        os.utime(files[1].path, ns=(0, 0))
        assert state.finished(files[0]) is None and state.finished(files[1]) is None


def test_entries_of_a_file_that_is_given_up_are_dropped(tmp_path, files):
    with open_state(tmp_path / "out", SETTINGS) as state:
        first = finish(state, files[0])
        state.add(ImageRecord.of("half", one_face()))
        state.discard()
        second = finish(state, files[1], 2)
        assert [i["file_name"] for i, _ in images(state, second)] == [files[1].name] * 2
        assert first.end == second.start


def test_live_sources_are_not_remembered(tmp_path):
    live = InputFile(Path("webcam:0"), PurePath("webcam_0"), live="webcam:0")
    assert file_key(live) is None
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert len(list(images(state, finish(state, live, 2)))) == 2
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert state.finished(live) is None


def test_other_settings_are_refused_and_the_difference_named(tmp_path, files):
    with open_state(tmp_path / "out", SETTINGS) as state:
        finish(state, files[0])
    other = {"model": {"sha256": "def", "thresholds": [0.5, 0.5]}, "stride": 2}
    with (
        pytest.raises(SettingsError, match='model.sha256: "abc" -> "def"; stride: 1 -> 2'),
        open_state(tmp_path / "out", other),
    ):
        pass
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert state.finished(files[0])
    with open_state(tmp_path / "out", other, overwrite=True) as state:
        assert state.finished(files[0]) is None


def test_equal_settings_with_tuples_are_equal(tmp_path):
    for _ in range(2):
        with open_state(tmp_path / "out", {"sizes": (1, 2)}):
            pass


def test_only_some_differences_are_named():
    many = differences({f"k{i:02}": 0 for i in range(9)}, {f"k{i:02}": 1 for i in range(9)})
    assert many[-1] == "and 4 more" and len(many) == 6


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    with (
        open_state(tmp_path / "out", SETTINGS),
        pytest.raises(SettingsError, match="another run is writing"),
        open_state(tmp_path / "out", SETTINGS),
    ):
        pass
    with open_state(tmp_path / "out", SETTINGS):
        pass


def test_unreadable_settings_begin_again(tmp_path, files):
    with open_state(tmp_path / "out", SETTINGS) as state:
        finish(state, files[0])
    (tmp_path / "out" / STATE_FOLDER / "settings.json").write_text('{"half')
    with open_state(tmp_path / "out", SETTINGS) as state:
        assert state.finished(files[0]) is None
    known = json.loads((tmp_path / "out" / STATE_FOLDER / "settings.json").read_text())
    assert known == SETTINGS

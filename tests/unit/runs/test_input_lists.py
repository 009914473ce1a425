import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from comics.runs.input_lists import ListError, parse_list, read_list
from comics.runs.inputs import expand_inputs

NAME = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)
LINE = NAME.filter(lambda name: not set(name) & set(b"\r\n"))
MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")  # of an encoding, at the beginning


@given(st.lists(LINE), st.sampled_from([b"\n", b"\r\n"]))
def test_any_names_survive_lines(names, end):
    content = b"".join(name + end for name in names)
    assume(not content.startswith(MARKS))
    assert [os.fsencode(name) for name in parse_list(content)] == names


@given(st.lists(NAME, min_size=1))
def test_any_names_survive_nul_bytes(names):
    content = b"".join(name + b"\0" for name in names)
    assume(not content.startswith(MARKS))
    assert [os.fsencode(name) for name in parse_list(content)] == names


@given(st.binary(max_size=300))
def test_no_content_fails(content):
    for name in parse_list(content):
        assert name
        found = expand_inputs([], listed=[f"/nowhere/{name}"])
        assert not found.files and len(found.faults) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_lists_that_windows_writes(encoding):
    content = "fotos/größe.jpg\r\nb c.png\r\n\r\n".encode(encoding)
    assert parse_list(content) == ["fotos/größe.jpg", "b c.png"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\nb.jpg")))
    assert read_list("-") == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("make", [None, Path.mkdir])
def test_a_list_that_cannot_be_read_is_named(tmp_path, make):
    if make:
        make(tmp_path / "list.txt")
    with pytest.raises(ListError, match="list.txt cannot be read"):
        read_list(tmp_path / "list.txt")


def test_listed_paths_are_no_patterns_and_no_live_sources(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jpg").write_bytes(b"x")
    listed = [f"{tmp_path}/*.jpg", "webcam:0", "rtsp://host/x", str(tmp_path / "sub")]
    found = expand_inputs([], listed=listed)
    assert [file.path for file in found.files] == [tmp_path / "sub" / "b.jpg"]
    *paths, address = (reason for _, reason in found.faults)
    assert paths == ["no such file or folder"] * 2
    assert address.startswith("an address: nothing is fetched")

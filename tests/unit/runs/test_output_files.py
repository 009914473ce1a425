from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.files import atomic_path, write_bytes
from comics.inference.files import OutputNames, display_name, safe_name


def test_file_appears_whole_and_alone(tmp_path):
    write_bytes(tmp_path / "new" / "folder" / "a.bin", b"12345")
    assert (tmp_path / "new/folder/a.bin").read_bytes() == b"12345"
    assert [p.name for p in (tmp_path / "new/folder").iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é.jpg", "plain é.jpg"),
        ("caf\udce9.jpg", "caf\\xe9.jpg"),
        ("two\nlines\x1b[31m.jpg", "two\\nlines\\x1b[31m.jpg"),
        ("right\u202eto left.jpg", "right\\u202eto left.jpg"),
    ],
)
def test_display_name_is_printable(name, shown):
    assert display_name(name) == shown


names = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=300)


@given(names)
def test_safe_name_is_safe(name):
    safe = safe_name(name)
    assert safe.isascii() and safe.isprintable()
    assert 0 < len(safe) <= 201
    assert not safe.startswith(".") and not set(safe) & set('/\\<>:"|?*&%$')
    assert safe.split(".")[0].lower() not in {"con", "nul", "com1", "prn"}


@given(names)
def test_display_name_survives_utf8(name):
    assert display_name(name).encode("utf-8").decode("utf-8").isprintable()


def test_names_mirror_the_input():
    names = OutputNames()
    assert names.claim(PurePath("a/b/photo.png"), ".jpg") == PurePath("a/b/photo.jpg")


def test_collisions_are_numbered_whatever_the_case():
    names = OutputNames()
    given_names = ["a/x.jpg", "a/x.png", "a/X.JPG", "b/x.jpg", "a/x-2.jpg", "é.jpg", "è.jpg"]
    claimed = [names.claim(PurePath(name), ".jpg").as_posix() for name in given_names]
    assert claimed[:5] == ["a/x.jpg", "a/x-2.jpg", "a/X-3.jpg", "b/x.jpg", "a/x-2-2.jpg"]
    assert len({name.casefold() for name in claimed}) == len(claimed)


@given(st.lists(st.lists(names, min_size=1, max_size=3), min_size=1, max_size=5))
def test_no_name_leaves_the_output_folder(paths):
    claimed = OutputNames()
    for parts in paths:
        result = claimed.claim(PurePath(*parts), ".jpg")
        assert not result.is_absolute()
        assert ".." not in result.parts


def test_parents_and_roots_are_dropped():
    assert OutputNames().claim(PurePath("/../../etc/x.jpg"), ".jpg") == PurePath("etc/x.jpg")

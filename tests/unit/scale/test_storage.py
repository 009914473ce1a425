"""Files by their address; faults of stores, and what is said of them."""

import errno

import fsspec
import pytest

from comics.scale import storage
from comics.scale.storage import (
    StorageAbsent,
    StorageDenied,
    StorageError,
    StorageFull,
    delete_leftovers,
    fetch,
    locate,
    names_in,
    read_file,
    tried,
    write_file,
)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return locate(str(tmp_path / "out"))
    return locate(f"memory://test-{tmp_path.name}/out")


@pytest.mark.parametrize(
    ("text", "place", "path", "name"),
    [
        ("s3://b/x/y.jpg", "s3://b/", "b/x/y.jpg", "s3://b/x/y.jpg"),
        ("gs://b/x#1?.jpg", "gs://b/", "b/x#1?.jpg", "gs://b/x#1?.jpg"),
        ("s3://b/x/?endpoint_override=h:9000&scheme=http",
         "s3://b/?endpoint_override=h:9000&scheme=http", "b/x", "s3://b/x"),
        ("hdfs://node:8020/x/y", "hdfs://node:8020/", "/x/y", "hdfs://node:8020/x/y"),
        ("abfss://box@account.dfs.core.windows.net/x", "abfss://box@account.dfs.core.windows.net/",
         "/x", "abfss://box@account.dfs.core.windows.net/x"),
        ("file:///data/a%20b", "", "/data/a b", "/data/a b"),
        ("/data/a?b", "", "/data/a?b", "/data/a?b"),
    ],
)  # fmt: skip
def test_addresses(text, place, path, name):
    found = locate(text)
    assert (found.place, found.path, found.name) == (place, path, name)


def test_a_file_is_written_whole_under_its_name(folder, tmp_path):
    write_file(folder / "a", b"first")
    write_file(folder / "a", b"second")
    assert read_file(folder / "a") == b"second"
    assert names_in(folder) == ["a"]
    fetch(folder / "a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"second"


def test_what_is_not_there_is_told_by_name(folder):
    with pytest.raises(StorageAbsent, match="nothing: no such file"):
        read_file(folder / "nothing")
    assert names_in(folder / "nothing") == []


def test_a_write_that_breaks_off_leaves_the_old_file(monkeypatch, tmp_path):
    folder = locate(f"memory://break-{tmp_path.name}/out")
    write_file(folder / "a", b"old")
    store = fsspec.filesystem("memory")

    def breaks(*arguments, **options):
        raise OSError("the line is dead")

    monkeypatch.setattr(type(store), "mv", breaks)
    with pytest.raises(StorageError, match="cannot write: the line is dead"):
        write_file(folder / "a", b"new")
    assert read_file(folder / "a") == b"old"
    assert names_in(folder) == ["a"]


def test_leftovers_of_killed_writers_are_deleted_and_nothing_else(folder):
    for name in ("a", ".a.1234.part", ".hidden"):
        write_file(folder / name, b"x")
    delete_leftovers(folder)
    assert names_in(folder) == [".hidden", "a"]


def test_what_fails_for_a_moment_is_tried_again():
    calls = []

    def action():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("Could not connect")
        return "done"

    assert tried("a", "read", action) == "done"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (PermissionError(13, "Permission denied"), StorageDenied, "permission denied"),
        (OSError("When writing key 'x' in bucket 'b': AWS Error ACCESS_DENIED during PutObject "
                 "operation (HTTP status 403): Access Denied. many more words"),
         StorageDenied, r"ACCESS_DENIED \(PutObject, HTTP status 403\)"),
        (OSError(errno.ENOSPC, "No space left on device"), StorageFull, "no space left"),
        (FileNotFoundError("x"), StorageAbsent, "no such file or folder"),
    ],
)  # fmt: skip
def test_lasting_faults_are_told_at_once(error, kind, told):
    calls = []

    def action():
        calls.append(1)
        raise error

    with pytest.raises(kind, match=told):
        tried("s3://b/x", "write", action)
    assert len(calls) == 1


def test_a_full_disk_of_this_machine_is_not_the_stores_fault(monkeypatch, tmp_path):
    place = locate(f"memory://full-{tmp_path.name}/a")
    write_file(place, b"content")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "open", full, raising=False)
    with pytest.raises(StorageFull, match=f"{tmp_path}: no space left for files"):
        fetch(place, tmp_path / "copy")


def test_a_scheme_that_nobody_knows_is_told():
    with pytest.raises(StorageError, match="nosuch"):
        read_file(locate("nosuch://host/a"))

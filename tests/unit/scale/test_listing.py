"""What is looked at: folders, lists, tables and stores."""

import os
import sys

import fsspec
import pytest
from fake_scanner import write_files

from comics.scale import listing
from comics.scale.listing import Found, ListingError, list_inputs
from comics.scale.storage import locate


def names(*arguments, **more):
    return [item.name for item in list_inputs([str(a) for a in arguments], **more)]


def table(place, **columns):
    import pyarrow
    from pyarrow import parquet

    place.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), place)
    return place


def test_a_folder_gives_what_is_called_like_media_in_the_order_of_names(tmp_path):
    contents = {"b.jpg": "", "a/z.PNG": "", "a/clip.mp4": "", "notes.txt": "", "._b.jpg": ""}
    write_files(tmp_path / "in", contents)
    found = Found()
    expected = [f"{tmp_path}/in/a/clip.mp4", f"{tmp_path}/in/a/z.PNG", f"{tmp_path}/in/b.jpg"]
    assert names(tmp_path / "in", found=found) == expected
    assert found.passed_over == 2 and "notes.txt" in found.examples


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path):
    write_files(tmp_path, {"picture.bin": ""})
    assert names(tmp_path / "picture.bin") == [f"{tmp_path}/picture.bin"]


def test_names_are_as_they_were_typed_and_paths_absolute(tmp_path, monkeypatch):
    write_files(tmp_path / "in", {"a.jpg": ""})
    monkeypatch.chdir(tmp_path)
    (item,) = list_inputs(["in"])
    assert item.name == "in/a.jpg" and item.path == os.fsencode(tmp_path / "in" / "a.jpg")


def test_a_file_that_is_named_twice_comes_once(tmp_path):
    write_files(tmp_path / "in", {"a.jpg": "", "b.jpg": ""})
    found = Found()
    listed = [str(tmp_path / "in" / "a.jpg"), str(tmp_path / "in" / ".." / "in" / "b.jpg")]
    assert len(names(tmp_path / "in", tmp_path / "in", listed=listed, found=found)) == 2
    assert found.repeated == 4


def test_the_outputs_are_no_inputs(tmp_path):
    write_files(tmp_path, {"a.jpg": "", "out/b.jpg": ""})
    assert names(tmp_path, exclude=locate(str(tmp_path / "out"))) == [f"{tmp_path}/a.jpg"]


def test_links_in_a_circle_end(tmp_path):
    write_files(tmp_path / "in", {"a.jpg": ""})
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == [f"{tmp_path}/in/a.jpg"]


def test_what_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ListingError, match="absent: no such file or folder"):
        names(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other bytes than UTF-8")
def test_a_name_that_is_no_utf_8_keeps_its_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    open(path, "w").close()  # noqa: SIM115
    (item,) = list_inputs([str(tmp_path)])
    assert item.path == path and item.name.endswith("\\xff.jpg")


def test_a_table_of_paths(tmp_path):
    place = table(tmp_path / "paths.parquet", path=["/data/a.jpg", "s3://bucket/b c?.jpg"])
    assert names(place) == ["/data/a.jpg", "s3://bucket/b c?.jpg"]
    assert names(table(tmp_path / "k.parquet", key=["/a.jpg"], n=[1]), column="key") == ["/a.jpg"]


def test_a_folder_of_tables_as_spark_writes_it(tmp_path):
    table(tmp_path / "t.parquet" / "part-0.parquet", path=["/a.jpg"])
    table(tmp_path / "t.parquet" / "part-1.parquet", path=["/b.jpg", "/a.jpg"])
    assert names(tmp_path / "t.parquet") == ["/a.jpg", "/b.jpg"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"key": ["/a.jpg"]}, "no column 'path' or 'uri' or 'url' or 'file_name' .it has: key."),
        ({"path": [1, 2]}, "column 'path' is int64, not text"),
        ({"path": ["/a.jpg", None]}, "row 1: no path in 'path'"),
    ],
)
def test_a_table_of_another_schema_is_an_error_that_says_so(tmp_path, columns, told):
    with pytest.raises(ListingError, match=told):
        names(table(tmp_path / "paths.parquet", **columns))


def test_what_is_no_table_is_an_error_that_says_so(tmp_path):
    write_files(tmp_path, {"paths.parquet": "no Parquet at all"})
    with pytest.raises(ListingError, match=r"paths\.parquet: no Parquet file"):
        names(tmp_path / "paths.parquet")


def test_a_store_of_fsspec_is_listed(tmp_path):
    store = fsspec.filesystem("memory")
    for name in ("/pictures/b.jpg", "/pictures/x/a.png", "/pictures/notes.txt"):
        store.pipe(name, b"content")
    items = list(list_inputs(["memory://pictures"]))
    assert [item.name for item in items] == ["memory://pictures/b.jpg", "memory://pictures/x/a.png"]
    assert items[0].size == 7


def test_credentials_in_an_address_are_refused_and_not_shown(tmp_path):
    with pytest.raises(ListingError, match="holds credentials") as caught:
        names("s3://AKIA:secret@bucket/folder")
    assert "secret" not in str(caught.value)


def test_what_is_planned_does_not_stay_in_memory(monkeypatch, tmp_path):
    """Keys of a bucket's folder come as one list from its store; the plan adds little to it."""
    import tracemalloc

    from comics.scale.plan import JobFolder

    class Info:
        size, mtime_ns = 5, None

        def __init__(self, number):
            self.base_name = f"{number:09}.jpg"

    count = 20_000
    monkeypatch.setattr(listing, "kind_of", lambda location: "folder")
    monkeypatch.setattr(listing, "_entries", lambda folder: (Info(n) for n in range(count)))
    monkeypatch.setattr(listing, "_is_folder", lambda info: False)
    tracemalloc.start()
    items = list_inputs(["s3://bucket/pictures"])
    assert JobFolder(str(tmp_path)).write_plan(items, 500) == (count, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * count  # bytes; as objects they would be several hundred each
    assert JobFolder(str(tmp_path)).items(39)[-1].path == b"bucket/pictures/000019999.jpg"

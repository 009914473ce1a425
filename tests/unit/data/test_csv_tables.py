"""CSV files of other programs: byte order marks, separators, ends of lines, quotes."""

import pytest

from comics.data.csv_tables import read_table
from comics.data.faces.manifest_files import read_manifest
from comics.data.records import DatasetError
from comics.evaluation.predictions import load_predictions

ROWS = [["path", "label", "video"], ["a, b.png", "real", "x"], ['c"d.png', "fake", ""]]


def text(delimiter, end, quoted):
    def field(value):
        needs = quoted or any(c in value for c in (delimiter, '"', "\n"))
        return '"' + value.replace('"', '""') + '"' if needs else value

    return end.join(delimiter.join(map(field, row)) for row in ROWS) + end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoted", [False, True])
def test_the_same_table_in_every_writing(tmp_path, encoding, delimiter, end, quoted):
    path = tmp_path / "faces.csv"
    path.write_bytes(text(delimiter, end, quoted).encode(encoding))
    table = read_table(path)
    assert list(table.columns) == ROWS[0]
    assert [values for _, values in table.rows] == ROWS[1:]
    manifest = read_manifest(path)
    assert list(manifest.paths) == ["a, b.png", 'c"d.png']
    assert manifest.labels.tolist() == [0, 1]


def test_predictions_from_a_spreadsheet(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("label;fake_probability;video\r\n0;0.25;a\r\n1;0.75;b\r\n".encode("utf-8-sig"))
    table = load_predictions(path)
    assert table.labels.tolist() == [0, 1] and table.scores.tolist() == [0.25, 0.75]
    path.write_text("label,label,fake_probability\n0,1,0.5\n")
    with pytest.raises(ValueError, match="label more than once"):
        load_predictions(path)


def test_paths_from_windows(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").touch()
    path = tmp_path / "m.csv"
    path.write_text("path,label\nfaces\\a.png,real\n")
    assert read_manifest(path)[0].path == str(tmp_path / "faces" / "a.png")
    (tmp_path / "faces\\a.png").touch()
    assert read_manifest(path)[0].path == str(tmp_path / "faces\\a.png")


@pytest.mark.parametrize(
    "row, words",
    [
        ("a.png,real,99999999999999999999,", "frame"),
        ("a.png,real,,99999999999", "cluster"),
        ("a.png,real,\u0663,", "frame"),
        ("a.png,real,1.0,", "frame"),
    ],
)
def test_numbers_that_do_not_fit_are_named(tmp_path, row, words):
    path = tmp_path / "m.csv"
    path.write_text(f"path,label,frame,cluster\n{row}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=f"line 2: {words}"):
        read_manifest(path)


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\x00\x01\x02", b'path,label\n"a'])
def test_what_is_no_table_is_named(tmp_path, data):
    path = tmp_path / "m.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"m\.csv"):
        read_manifest(path)

"""Rows and back: Parquet says what results.json says."""

import json

import pytest
import torch

from comics.runs.outputs import FileStatus, file_entry
from comics.runs.records import ImageRecord
from comics.scale.tables import (
    SchemaError,
    decode,
    encode,
    face_entry,
    face_row,
    faces_schema,
    failed_row,
    file_row,
    files_schema,
    image_entry,
)
from comics.structures import Faces


def faces_of(masks=True, doubts=True):
    return Faces(
        boxes=torch.tensor([[1.234, 2.0, 9.0, 11.0], [20.0, 3.0, 31.5, 17.0]]),
        image_size=(24, 40),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.7]),
        masks=torch.arange(2 * 24 * 40).reshape(2, 24, 40) % 7 > 3 if masks else None,
        fake_probability=torch.tensor([0.1234567, 0.9]),
        doubts=torch.tensor([1, 0]) if doubts else None,
    )


@pytest.mark.parametrize("more", [{}, {"masks": False}, {"doubts": False}])
@pytest.mark.parametrize("video", [False, True])
def test_faces_come_back_as_the_entries_they_were_made_from(more, video):
    place = {"frame": 7, "time_s": 0.28, "track_ids": [3, 1]} if video else {}
    record = ImageRecord.of("a.mp4" if video else "a.jpg", faces_of(**more), **place)
    rows = [face_row(record.image, 4, face) for face in record.faces]
    back = decode(encode(rows, faces_schema()), faces_schema(), "x").to_pylist()
    assert [json.dumps(face_entry(row)) for row in back] == list(record.face_texts)
    assert [row["image"] for row in back] == [4, 4]


def test_files_come_back_as_the_entries_they_were_made_from():
    status = FileStatus("a\udcff.jpg", "image", "ok", "no_face_found", reason="one of two pages")
    images = [{"file_name": "a.jpg", "width": 40, "height": 24}]
    row = file_row(file_entry(status), images)
    (back,) = decode(encode([row], files_schema()), files_schema(), "x").to_pylist()
    assert json.loads(back["entry"]) == file_entry(status)
    assert image_entry("a.jpg", back["images"][0]) == images[0]
    assert back["verdict"] == "no_face_found" and back["quarantined"] is False


def test_a_failed_file_is_told_as_runs_tell_it():
    row = failed_row("a.jpg", "broken")
    assert json.loads(row["entry"]) == file_entry(
        FileStatus("a.jpg", "unknown", "failed", reason="broken")
    )
    assert not row["quarantined"] and failed_row("a.jpg", "x", 3)["quarantined"]


def test_no_rows_make_a_table_with_all_columns():
    assert decode(encode([], faces_schema()), faces_schema(), "x").num_rows == 0


def test_every_column_is_described_in_the_docs(request):
    text = (request.config.rootpath / "docs" / "scaling.md").read_text(encoding="utf-8")
    for field in [*files_schema(), *faces_schema()]:
        assert f"`{field.name}`" in text, field.name


def test_tables_of_others_are_refused_by_name_and_column():
    import pyarrow
    from pyarrow import parquet

    def table(**columns):
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table(columns), sink)
        return sink.getvalue().to_pybytes()

    with pytest.raises(SchemaError, match="x: no column 'kind': not of comics scale"):
        decode(table(file_name=["a"]), files_schema(), "x")
    with pytest.raises(SchemaError, match="x: column 'file_name' is int64, not string"):
        decode(table(file_name=[1]), files_schema(), "x")
    with pytest.raises(SchemaError, match="x: no Parquet file"):
        decode(b"something else", files_schema(), "x")

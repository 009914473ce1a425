"""The Parquet that comes out: a row for each file, a row for each face.

Both are made from the entries that ``results.json`` is made from (``comics.runs.outputs``), and
lead back to them: ``entries_of_file`` and ``face_entry``. A part of a job is two files of one
number, ``files/part-000000.parquet`` and ``faces/part-000000.parquet``; the faces of a part are
those of its files, in the same order.

Columns are added, never changed: ``SCHEMA_VERSION`` stands in each file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = "1.0"
VERSION_KEY = b"comics_schema"
COMPRESSION = "zstd"
FAILED = "failed"
UNKNOWN = "unknown"

# (name, type, what it says). Types are names of pyarrow's; see _type
FILE_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("file_name", "string", "as it was named or listed"),
    ("kind", "string", "image, video; unknown of what could not be looked at"),
    ("status", "string", "ok; partial: not all of a video could be read; failed"),
    ("verdict", "string", "forged_face_found, unclear, no_forgery_found, no_face_found; or null"),
    ("faces", "int64", "of a video: summed over its analysed frames"),
    ("forged_faces", "int64", "of these, called forged"),
    ("unclear_faces", "int64", "of these, neither"),
    ("reason", "string", "what went wrong or was left out"),
    ("fake_probability", "double", "of a video, over its tracks"),
    ("frames", "int64", "of a video, decoded"),
    ("analysed_frames", "int64", "of these, looked at"),
    ("frames_with_faces", "int64", ""),
    ("frames_with_forged_faces", "int64", ""),
    ("tracks", "int64", "faces that were followed through the video"),
    ("forged_tracks", "int64", ""),
    ("unclear_tracks", "int64", ""),
    ("sha256", "string", "of the whole file"),
    ("bytes", "int64", ""),
    ("type", "string", "MIME type, by the content"),
    ("modified", "string", "UTC, ISO 8601"),
    ("tries", "int64", "how often it ended the process that looked at it"),
    ("quarantined", "bool", "given up for that"),
    ("images", "images", "width, height of the picture or of each analysed frame; frame, time_s"),
    ("entry", "string", "JSON: the file's entry as in results.json, with metadata, C2PA, tracks"),
)
FACE_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("file_name", "string", "of its file"),
    ("image", "int64", "which of the file's images, from 0"),
    ("frame", "int64", "of a video: the frame, from 0"),
    ("time_s", "double", "of a video: seconds since its first frame"),
    ("track_id", "int64", "of a video: the face's track, from 1"),
    ("x", "double", "left edge of its box, pixels"),
    ("y", "double", "top edge"),
    ("width", "double", ""),
    ("height", "double", ""),
    ("score", "double", "confidence that it is a face"),
    ("fake_probability", "double", "P(fake)"),
    ("label", "string", "real, fake"),
    ("verdict", "string", "real, fake, unclear"),
    ("unclear_because", "strings", "doubts; null unless unclear"),
    ("mask_height", "int64", "of its mask: COCO's compressed RLE; null without one"),
    ("mask_width", "int64", ""),
    ("mask_counts", "string", ""),
)
IMAGE_FIELDS = (("width", "int64"), ("height", "int64"), ("frame", "int64"), ("time_s", "double"))
LABELS = ("real", "fake")  # by category id
# Members of a file's entry that have columns of their own
_TOLD = tuple(
    name for name, _, _ in FILE_FIELDS if name not in ("tries", "quarantined", "images", "entry")
)


class SchemaError(ValueError):
    """A Parquet file that is not one of these."""


def file_row(
    entry: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]] = (),
    tries: int = 0,
    quarantined: bool = False,
) -> dict[str, Any]:
    """A row of files.

    Args:
        entry: of ``files`` in results.json: see ``comics.runs.outputs.file_entry``.
        images: of ``images``, those of the file, in their order.
        tries: how often it ended the process that looked at it.
        quarantined: whether it was given up for that.
    """
    row: dict[str, Any] = {name: entry.get(name) for name in _TOLD}
    shapes = [{name: image.get(name) for name, _ in IMAGE_FIELDS} for image in images]
    return row | {
        "tries": tries,
        "quarantined": quarantined,
        "images": shapes,
        "entry": json.dumps(dict(entry), allow_nan=False),
    }


def failed_row(name: str, reason: str, tries: int = 0, kind: str = UNKNOWN) -> dict[str, Any]:
    """The row of a file that could not be looked at; with tries: that is quarantined."""
    entry = {
        "file_name": name,
        "kind": kind,
        "status": FAILED,
        "verdict": None,
        "faces": 0,
        "forged_faces": 0,
        "unclear_faces": 0,
        "reason": reason,
    }
    return file_row(entry, tries=tries, quarantined=tries > 0)


def face_row(image: Mapping[str, Any], number: int, face: Mapping[str, Any]) -> dict[str, Any]:
    """A row of faces.

    Args:
        image: the entry of its picture or frame.
        number: which of its file's, from 0.
        face: its entry of ``results``.
    """
    mask = face.get("segmentation") or {}
    height, width = mask.get("size", (None, None))
    x, y, across, down = face["bbox"]
    return {
        "file_name": face["file_name"],
        "image": number,
        "frame": image.get("frame"),
        "time_s": image.get("time_s"),
        "track_id": face.get("track_id"),
        "x": x,
        "y": y,
        "width": across,
        "height": down,
        "score": face["score"],
        "fake_probability": face.get("fake_probability"),
        "label": LABELS[face["category_id"]],
        "verdict": face["verdict"],
        "unclear_because": face.get("unclear_because"),
        "mask_height": height,
        "mask_width": width,
        "mask_counts": mask.get("counts"),
    }


def face_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse: the entry of ``results``, without its image_id."""
    entry: dict[str, Any] = {
        "category_id": LABELS.index(row["label"]),
        "bbox": [row["x"], row["y"], row["width"], row["height"]],
        "score": row["score"],
    }
    if row["mask_counts"] is not None:
        size = [row["mask_height"], row["mask_width"]]
        entry["segmentation"] = {"size": size, "counts": row["mask_counts"]}
    if row["fake_probability"] is not None:
        entry["fake_probability"] = row["fake_probability"]
    entry |= {"file_name": row["file_name"], "verdict": row["verdict"]}
    if row["unclear_because"] is not None:
        entry["unclear_because"] = row["unclear_because"]
    if row["track_id"] is not None:
        entry["track_id"] = row["track_id"]
    return entry


def image_entry(name: str, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of ``images``, without its id, from a file's name and one of its ``images``."""
    told = {name: value for name, value in shape.items() if value is not None}
    return {"file_name": name} | told


def files_schema() -> pyarrow.Schema:
    """Of ``files/*.parquet``."""
    return _schema(FILE_FIELDS)


def faces_schema() -> pyarrow.Schema:
    """Of ``faces/*.parquet``."""
    return _schema(FACE_FIELDS)


def encode(rows: Iterable[Mapping[str, Any]], schema: pyarrow.Schema) -> bytes:
    """A Parquet file of rows."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([_sound(row) for row in rows], schema=schema)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink, compression=COMPRESSION)
    return sink.getvalue().to_pybytes()


def decode(content: bytes, schema: pyarrow.Schema, name: str) -> pyarrow.Table:
    """The rows of a Parquet file, in the columns of ``schema``; later versions' others are left.

    Raises:
        SchemaError: naming the file, if it is no Parquet, or lacks a column or has it of another
            type.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise SchemaError(f"{name}: no Parquet file: {str(error).splitlines()[0]}") from error
    found = file.schema_arrow
    for field in schema:
        place = found.get_field_index(field.name)
        if place < 0:
            raise SchemaError(f"{name}: no column {field.name!r}: not of comics scale")
        if not found.field(place).type.equals(field.type):
            kind = found.field(place).type
            raise SchemaError(f"{name}: column {field.name!r} is {kind}, not {field.type}")
    return file.read(columns=schema.names).cast(schema)


def _schema(fields: Sequence[tuple[str, str, str]]) -> pyarrow.Schema:
    import pyarrow

    told = [
        pyarrow.field(name, _type(kind), metadata={"description": text} if text else None)
        for name, kind, text in fields
    ]
    return pyarrow.schema(told, metadata={VERSION_KEY: SCHEMA_VERSION.encode()})


def _type(kind: str) -> pyarrow.DataType:
    import pyarrow

    if kind == "images":
        members = [pyarrow.field(name, _type(each)) for name, each in IMAGE_FIELDS]
        return pyarrow.list_(pyarrow.struct(members))
    if kind == "strings":
        return pyarrow.list_(pyarrow.string())
    return {
        "string": pyarrow.string(),
        "int64": pyarrow.int64(),
        "double": pyarrow.float64(),
        "bool": pyarrow.bool_(),
    }[kind]


def _sound(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what UTF-8 cannot hold: halves of surrogate pairs become escapes."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }

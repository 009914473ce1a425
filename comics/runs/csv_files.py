"""The results of a run as tables: ``results.csv``, a line per face, and ``files.csv``, per file.

UTF-8, comma-separated, quoted as RFC 4180 says, lines ended by a line feed. A spreadsheet takes a
cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, some also where white space comes
first or the sign is one of the full-width forms, and the name of a file may begin so: such a path
gets ``./`` before it, which names the same file.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields

from comics.files import atomic_path
from comics.inference.stability import TREATMENTS
from comics.runs.outputs import FileStatus
from comics.structures import CLASS_NAMES

FACE_COLUMNS = (
    "file_name",
    "frame",
    "time_s",
    "track_id",
    "x",
    "y",
    "width",
    "height",
    "score",
    "fake_probability",
    "label",
    "verdict",
    "unclear_because",
    *(f"stability_{name}" for name in TREATMENTS),
    "stability_lost",
)
NESTED = ("facts", "track_verdicts")  # of a file, in results.json
# Of a file's facts: column -> where it is in the file's entry
FACT_COLUMNS: dict[str, tuple[str, ...]] = {
    "sha256": ("sha256",),
    "bytes": ("bytes",),
    "type": ("type",),
    "modified": ("modified",),
    "camera": ("metadata", "camera"),
    "software": ("metadata", "software"),
    "times": ("metadata", "times"),
    "has_gps": ("metadata", "has_gps"),
    "source_type": ("metadata", "source_type"),
    "thumbnail_differs": ("metadata", "thumbnail", "differs"),
    "c2pa_present": ("c2pa", "present"),
    "c2pa_intact": ("c2pa", "intact"),
    "c2pa_signer": ("c2pa", "signer"),
    "c2pa_issuer": ("c2pa", "issuer"),
    "c2pa_trusted": ("c2pa", "trusted"),
    "c2pa_reason": ("c2pa", "reason"),
}
FILE_COLUMNS = (
    *(field.name for field in fields(FileStatus) if field.name not in NESTED),
    *FACT_COLUMNS,
)
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
WHITE_STARTS = ("\t", "\r", "\n")  # on their own taken for formulas by some


class CsvTable:
    """Takes rows; made by ``csv_table``."""

    def __init__(self, writer: csv.DictWriter) -> None:
        self._writer = writer

    def add(self, row: Mapping[str, object]) -> None:
        """Add a row; what is absent or None becomes an empty cell."""
        self._writer.writerow({name: _cell(value) for name, value in row.items()})


@contextlib.contextmanager
def csv_table(path: str | os.PathLike, columns: tuple[str, ...]) -> Iterator[CsvTable]:
    """A table at ``path``; the file appears when the block ends without an exception.

    Raises:
        OSError: if it cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        yield CsvTable(writer)


def face_row(image: Mapping, face: Mapping, evidence: Mapping | None = None) -> dict[str, object]:
    """A row of ``results.csv`` from entries of ``images`` and ``results``.

    Args:
        image, face: the entries.
        evidence: of a person in a video, where this face is shown for it: see ``frames_shown``.
    """
    place = dict(zip(("x", "y", "width", "height"), face["bbox"], strict=True))
    kept = {name: face.get(name) for name in ("track_id", "score", "fake_probability")}
    return {
        "file_name": image["file_name"],
        "frame": image.get("frame"),
        "time_s": image.get("time_s"),
        **kept,
        **place,
        "label": CLASS_NAMES[face["category_id"]].lower(),
        "verdict": face["verdict"],
        "unclear_because": " ".join(face.get("unclear_because", ())),
        **_stability_cells({**face, **(evidence or {})}.get("stability") or {}),
    }


def frames_shown(file: Mapping) -> dict[tuple[object, object], Mapping]:
    """(frame, track) -> the evidence of a video's persons, from its entry of ``files``."""
    tracks = file.get("track_verdicts", ())
    told = [(track["track_id"], track.get("evidence", {})) for track in tracks]
    return {(evidence.get("frame"), track): evidence for track, evidence in told}


def _stability_cells(stability: Mapping) -> dict[str, object]:
    """P(fake) after each treatment, and after which the face was not found again."""
    lost = [name for name in TREATMENTS if name in stability and stability[name] is None]
    cells: dict[str, object] = {f"stability_{name}": stability.get(name) for name in TREATMENTS}
    return cells | {"stability_lost": " ".join(lost)}


def file_row(entry: Mapping) -> dict[str, object]:
    """A row of ``files.csv`` from an entry of ``files``."""
    row = {name: value for name, value in entry.items() if name in FILE_COLUMNS}
    return row | {name: _flat(_inner(entry, path)) for name, path in FACT_COLUMNS.items()}


def _inner(entry: Mapping, path: tuple[str, ...]) -> object:
    value: object = entry
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _flat(value: object) -> object:
    """Lists and mappings as one text; yes and no as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {each}" for name, each in value.items()) or None
    return "; ".join(map(str, value)) or None if isinstance(value, (list, tuple)) else value


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    dangerous = value.startswith(WHITE_STARTS) or value.lstrip().startswith(FORMULA_STARTS)
    value = value.replace("\r", " ")  # left unquoted by the csv module, a line end to readers
    return f"./{value}" if dangerous else value

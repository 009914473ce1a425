"""Reading and writing manifests as CSV; see ``comics.data.faces.manifest`` for the columns."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from comics.data.csv_tables import read_table
from comics.data.faces.manifest import (
    COLUMNS,
    IDENTITIES,
    NAMED,
    REAL_METHOD,
    UNKNOWN,
    Manifest,
    StringPacker,
)
from comics.data.records import DatasetError
from comics.files import atomic_path
from comics.structures import FAKE, REAL

REQUIRED = ("path", "label")
LABELS = {"real": REAL, "fake": FAKE, "0": REAL, "1": FAKE}
LARGEST = {"frame": 2**63 - 1, "cluster": 2**31 - 1}  # what their columns hold
SHOWN_FAULTS = 10  # of a refused manifest
MAX_FIELD = 10_000_000  # characters: a mask as RLE may be longer than csv's own limit


class ManifestBuilder:
    """Collects rows given as text, notes their faults, and makes the columns.

    Args:
        file: for messages.
        root: folder that relative paths start from.
    """

    def __init__(self, file: str, root: str) -> None:
        self._file, self._root = file, root
        self._text = {column: StringPacker() for column in ("path", "paired_real", "mask")}
        self._boxes, self._lines, self._frames = array("f"), array("i"), array("q")
        self._labels, self._clusters = array("b"), array("i")
        self._codes = {column: array("i") for column in NAMED}
        identities: dict[str, int] = {}
        self._tables = {c: identities if c in IDENTITIES else {} for c in NAMED}
        self.faults: list[str] = []

    def add(self, line: int, row: Mapping[str, str | None]) -> None:
        """Take one row in; absent columns are empty."""
        values = {column: (row.get(column) or "").strip() for column in COLUMNS}
        try:
            box, frame, cluster = _box(values), *_numbers(values)
            label = _label(values)
            if not values["path"]:
                raise ValueError("path is empty")
        except ValueError as error:
            self.faults.append(f"{self._file}, line {line}: {error}")
            return
        if label == REAL:
            values["method"] = values["method"] or REAL_METHOD
            values["source"] = values["source"] or values["target"]
            values["target"] = values["target"] or values["source"]
        self._lines.append(line)
        self._boxes.extend(box)
        self._frames.append(frame)
        self._clusters.append(cluster)
        self._labels.append(label)
        for column, writer in self._text.items():
            writer.add(values[column])
        for column, codes in self._codes.items():
            table, value = self._tables[column], values[column]
            codes.append(table.setdefault(value, len(table)) if value else UNKNOWN)

    def build(self) -> Manifest:
        """The rows taken in.

        Raises:
            DatasetError: naming the first faulty rows, if there are any; for no rows.
        """
        if self.faults:
            raise _refused(self.faults, self._file)
        if not self._lines:
            raise DatasetError(f"{self._file}: there are no rows")
        sorted_tables = {column: _sorted(table) for column, table in self._tables.items()}
        codes = {
            column: _renumbered(np.array(self._codes[column], np.int32), sorted_tables[column][1])
            for column in NAMED
        }
        return Manifest(
            files=(self._file,),
            roots=(self._root,),
            file=np.zeros(len(self._lines), np.int16),
            line=np.array(self._lines, np.int32),
            paths=self._text["path"].finish(),
            paired=self._text["paired_real"].finish(),
            masks=self._text["mask"].finish(),
            boxes=np.array(self._boxes, np.float32).reshape(-1, 4),
            labels=np.array(self._labels, np.int8),
            frames=np.array(self._frames, np.int64),
            clusters=np.array(self._clusters, np.int32),
            codes=codes,
            names={column: sorted_tables[column][0] for column in NAMED},
        )


def read_manifest(path: str | os.PathLike) -> Manifest:
    """Read a manifest.

    Raises:
        DatasetError: naming file, line and fault: a file that is not there or not CSV, a column
            that is missing, twice or unknown, an unknown label, a box or number that is none, a
            fake called "real", a frame that is listed twice.
    """
    path = Path(path)
    builder = ManifestBuilder(str(path), str(path.parent))
    try:
        table = read_table(path, max_field=MAX_FIELD)
        _check_columns(path, table.columns)
        for line, values in table.rows:
            if len(values) == len(table.columns):
                builder.add(line, dict(zip(table.columns, values, strict=True)))
            else:
                builder.faults.append(f"{path}, line {line}: not {len(table.columns)} fields")
    except FileNotFoundError:
        raise DatasetError(f"there is no manifest {path}") from None
    except DatasetError:
        raise
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable CSV file: {error}") from error
    manifest = builder.build()
    _check_duplicates(manifest)
    return manifest


def write_manifest(path: str | os.PathLike, rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows as a manifest; it appears under its name only when it is complete.

    Args:
        path: of the CSV file; its folder is made.
        rows: column -> value; None or absent is empty. Paths relative to the file's folder.

    Returns:
        How many rows were written.

    Raises:
        ValueError: for a column that is none of ``COLUMNS``.
    """
    count = 0
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def write_clusters(
    source: str | os.PathLike, target: str | os.PathLike, clusters: Sequence[int] | np.ndarray
) -> None:
    """Copy a manifest with another column ``cluster``; ``target`` may be ``source``.

    Args:
        clusters: one number per row of ``source``, in its order; -1 leaves it empty.

    Raises:
        ValueError: if there are more or fewer numbers than rows, or ``target`` is in another
            folder, where its relative paths would be wrong.
        DatasetError: if ``source`` cannot be used.
    """
    rows = len(read_manifest(source))
    if rows != len(clusters):
        raise ValueError(f"{source}: {rows} rows, but {len(clusters)} clusters")
    if Path(source).parent.resolve() != Path(target).parent.resolve():
        raise ValueError(f"{target} must be beside {source}: paths start from the file's folder")
    table = read_table(source, max_field=MAX_FIELD)
    write_manifest(
        target,
        (
            dict(zip(table.columns, values, strict=True)) | {"cluster": "" if n < 0 else int(n)}
            for (_, values), n in zip(table.rows, clusters, strict=True)
        ),
    )


def _check_columns(path: Path, found: Sequence[str]) -> None:
    missing = [column for column in REQUIRED if column not in found]
    unknown = [column for column in found if column not in COLUMNS]
    twice = sorted({column for column in found if list(found).count(column) > 1})
    for what, columns in (("missing", missing), ("unknown", unknown), ("repeated", twice)):
        if columns:
            raise DatasetError(
                f"{path}, line 1: {what} columns: {', '.join(map(repr, columns))}; the columns are "
                f"{', '.join(COLUMNS)}"
            )


def _box(values: Mapping[str, str]) -> tuple[float, ...]:
    text = [values[name] for name in ("x0", "y0", "x1", "y1")]
    if not any(text):
        return (float("nan"),) * 4
    try:
        box = tuple(float(value) for value in text)
    except ValueError:
        raise ValueError(f"the box {text} is not four numbers") from None
    stored = np.array(box, np.float32)
    if not (np.isfinite(stored).all() and stored[0] < stored[2] and stored[1] < stored[3]):
        raise ValueError(f"the box {list(box)} (x0, y0, x1, y1) has no area")
    return box


def _numbers(values: Mapping[str, str]) -> tuple[int, int]:
    numbers = []
    for name in ("frame", "cluster"):
        text = values[name]
        if text and not (text.isascii() and text.isdecimal() and int(text) <= LARGEST[name]):
            raise ValueError(f"{name} {text!r} is not a whole number from 0 to {LARGEST[name]}")
        numbers.append(int(text) if text else UNKNOWN)
    return numbers[0], numbers[1]


def _label(values: Mapping[str, str]) -> int:
    text = values["label"].lower()
    if text not in LABELS:
        raise ValueError(f"unknown label {values['label']!r}; it is real or fake, 0 or 1")
    is_real_method = values["method"].lower() == REAL_METHOD
    if LABELS[text] == FAKE and is_real_method:
        raise ValueError("a fake whose method is 'real'")
    if LABELS[text] == REAL and values["method"] and not is_real_method:
        raise ValueError(f"a real face whose method is {values['method']!r}")
    return LABELS[text]


def _check_duplicates(manifest: Manifest) -> None:
    """A clip has each frame once per compression; else pairs would be ambiguous."""
    known = np.flatnonzero((manifest.codes["video"] >= 0) & (manifest.frames >= 0))
    columns = (manifest.codes["video"], manifest.frames, manifest.codes["compression"])
    keys = np.stack([column[known] for column in columns])
    order = np.lexsort(keys)
    same = (np.diff(keys[:, order], axis=1) == 0).all(axis=0)
    if same.any():
        first = int(np.flatnonzero(same)[0])
        one, two = sorted(known[order[first : first + 2]])
        raise DatasetError(
            f"{manifest.place(two)}: the same video ({manifest.name(two, 'video')!r}), frame and "
            f"compression as line {manifest.line[one]}; two faces of a video are two video ids"
        )


def _sorted(table: Mapping[str, int]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names in order, and the new number of each old one."""
    names = tuple(sorted(table))
    new = np.empty(len(names), np.int32)
    for number, name in enumerate(names):
        new[table[name]] = number
    return names, new


def _renumbered(codes: np.ndarray, new: np.ndarray) -> np.ndarray:
    result = np.full_like(codes, UNKNOWN)
    result[codes >= 0] = new[codes[codes >= 0]]
    return result


def _refused(faults: Sequence[str], file: str) -> DatasetError:
    shown = "\n  ".join(faults[:SHOWN_FAULTS])
    more = f"\n  and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    return DatasetError(f"{file} cannot be used:\n  {shown}{more}")

"""Manifests: one row per face of a picture, as CSV on disk and as columns in memory.

A manifest is a CSV file (UTF-8, commas, a line of column names). Relative paths start from its own
folder. Columns, of which only ``path`` and ``label`` must be there:

=============== ==================================================================================
path            the picture: a face crop, or a frame with the face in it
x0 y0 x1 y1     the face's box in it, pixels, right and bottom edges exclusive; empty: the whole
                picture is the crop
video           id of the clip of this face: the same at all compressions, unlike for a real clip
                and its forgeries, unlike for two faces of a video; empty: a clip of its own
frame           number of the frame in its video
label           real or fake, or 0 or 1
method          how it was forged; real faces have none, or "real"
source, target  identity that the forged face shows, and that it was put on; of a real face its
                own identity, in either or both
compression     "raw", "c23", ...; empty: unknown
paired_real     the real picture that a fake was made from, for the same box
mask            the forged region in the picture: a picture of its size (any bright pixel), or
                COCO's RLE as JSON
split           train, val or test
cluster         number of a content cluster (GuideSpace)
set             data set that the row comes from, where several are mixed
group           rows of one group never go to different splits: a clip and what was made from it;
                empty: a group of its own
=============== ==================================================================================

Reading is one pass that keeps arrays, not objects: about 100 bytes per row, shared by all worker
processes. No picture is opened.

An entry of a configuration is ``faces.csv``, or ``faces.csv@...`` with the rows to take, such as
``faces.csv@split=train,method=real|swap``: all conditions hold, "|" separates what a column may be.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comics.data.file_names import local_name
from comics.data.records import DatasetError

COLUMNS: tuple[str, ...]
COLUMNS = ("path", "x0", "y0", "x1", "y1", "video", "frame", "label", "method", "source", "target")
COLUMNS += ("compression", "paired_real", "mask", "split", "cluster", "set", "group")
REAL_METHOD = "real"  # what real rows have as method
# Columns of names
NAMED = ("video", "method", "source", "target", "compression", "split", "set", "group")
IDENTITIES = ("source", "target")  # share one table of names
UNKNOWN = -1


class PackedStrings(Sequence[str]):
    """Strings as bytes of one array, which worker processes share; see ``PackedRecords``."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self._data, self._ends = data, ends

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """From strings; surrogates of undecodable file names survive."""
        packer = StringPacker()
        for string in strings:
            packer.add(string)
        return packer.finish()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return self._data[start : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def take(self, rows: np.ndarray) -> PackedStrings:
        """The strings at those positions."""
        return PackedStrings.pack(self[int(row)] for row in rows)


class StringPacker:
    """Collects strings one by one."""

    def __init__(self) -> None:
        self._data, self._ends = bytearray(), array("q")

    def add(self, string: str) -> None:
        """Append one."""
        self._data += string.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._data))

    def finish(self) -> PackedStrings:
        """All of them."""
        data = np.frombuffer(bytes(self._data), np.uint8)
        return PackedStrings(data, np.array(self._ends, np.int64))


@dataclass(frozen=True)
class FaceRow:
    """One row, with paths made absolute or relative to the working folder.

    Attributes:
        path: the picture.
        box: (x0, y0, x1, y1); None for the whole picture.
        paired_real: path of the real picture; "" where there is none.
        mask: path of the mask, or RLE as JSON; "" where there is none.
        label: 0 real, 1 fake.
        compression: name of the level; "" where unknown.
        place: file and line, for messages.
    """

    path: str
    box: tuple[float, float, float, float] | None
    paired_real: str
    mask: str
    label: int
    compression: str
    place: str


@dataclass(frozen=True)
class Manifest:
    """The rows of one or more manifests; N of them.

    Attributes:
        files: where rows come from, for messages.
        roots: folder that relative paths of each file start from.
        file: [N] int16, which of ``files``.
        line: [N] int32, the line in it, from 1 (or the annotation's id).
        paths, paired, masks: N strings as in the file.
        boxes: [N, 4] float32, NaN for the whole picture.
        labels: [N] int8.
        frames: [N] int64, -1 unknown.
        clusters: [N] int32, -1 unknown.
        codes: column of names -> [N] int32, position in ``names``, -1 unknown.
        names: column of names -> its distinct values, sorted; "source" and "target" share one.
    """

    files: tuple[str, ...]
    roots: tuple[str, ...]
    file: np.ndarray
    line: np.ndarray
    paths: PackedStrings
    paired: PackedStrings
    masks: PackedStrings
    boxes: np.ndarray
    labels: np.ndarray
    frames: np.ndarray
    clusters: np.ndarray
    codes: Mapping[str, np.ndarray]
    names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> FaceRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        (x0, y0, x1, y1), mask = self.boxes[index].tolist(), self.masks[index]
        return FaceRow(
            path=self._located(index, self.paths[index]),
            box=None if np.isnan(x0) else (x0, y0, x1, y1),
            paired_real=self._located(index, self.paired[index]),
            mask=mask if mask.startswith("{") else self._located(index, mask),
            label=int(self.labels[index]),
            compression=self.name(index, "compression"),
            place=self.place(index),
        )

    def place(self, index: int) -> str:
        """File and line of a row, for messages."""
        return f"{self.files[self.file[index]]}, line {self.line[index]}"

    def name(self, index: int, column: str) -> str:
        """Value of a column of names in a row; "" where unknown."""
        code = self.codes[column][index]
        return "" if code == UNKNOWN else self.names[column][code]

    def take(self, rows: np.ndarray) -> Manifest:
        """Those rows, in that order; codes and names stay as they are."""
        arrays = ("file", "line", "boxes", "labels", "frames", "clusters")
        strings = ("paths", "paired", "masks")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in arrays},
            **{name: getattr(self, name).take(rows) for name in strings},
            codes={name: codes[rows] for name, codes in self.codes.items()},
        )

    def select(self, conditions: Mapping[str, Sequence[str]]) -> Manifest:
        """The rows whose columns of names have one of the values wanted.

        Raises:
            DatasetError: for a column without names, or conditions that no row meets.
        """
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in conditions.items():
            if column not in NAMED:
                raise DatasetError(
                    f"{', '.join(self.files)}: rows are chosen by {', '.join(NAMED)}, "
                    f"not {column!r}"
                )
            known = self.names[column]
            codes = [known.index(value) for value in wanted if value in known]
            keep &= np.isin(self.codes[column], codes)
        if not keep.any():
            asked = ", ".join(
                f"{column}={'|'.join(values)}" for column, values in conditions.items()
            )
            held = "; ".join(f"{c}: {', '.join(self.names[c][:8]) or 'none'}" for c in conditions)
            raise DatasetError(f"{', '.join(self.files)}: no row with {asked} (there is {held})")
        return self if keep.all() else self.take(np.flatnonzero(keep))

    def _located(self, index: int, path: str) -> str:
        if not path:
            return ""
        root = self.roots[self.file[index]]
        return os.path.join(root, local_name(path, root))


def join_manifests(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of all rows; names are put together, codes renumbered.

    Raises:
        DatasetError: for none.
    """
    if not manifests:
        raise DatasetError("there is no manifest to read")
    if len(manifests) == 1:
        return manifests[0]
    names = {c: tuple(sorted({n for m in manifests for n in m.names[c]})) for c in NAMED}
    codes = {c: np.concatenate([_recoded(m, c, names[c]) for m in manifests]) for c in NAMED}
    starts = np.cumsum([0] + [len(m.files) for m in manifests[:-1]])
    arrays = ("line", "boxes", "labels", "frames", "clusters")
    return Manifest(
        files=tuple(file for m in manifests for file in m.files),
        roots=tuple(root for m in manifests for root in m.roots),
        file=np.concatenate([m.file + s for m, s in zip(manifests, starts, strict=True)]),
        paths=PackedStrings.pack(path for m in manifests for path in m.paths),
        paired=PackedStrings.pack(path for m in manifests for path in m.paired),
        masks=PackedStrings.pack(mask for m in manifests for mask in m.masks),
        **{name: np.concatenate([getattr(m, name) for m in manifests]) for name in arrays},
        codes=codes,
        names=names,
    )


def split_entry(entry: str) -> tuple[str, dict[str, list[str]]] | None:
    """Path and conditions of a configuration's entry; None if it names no manifest.

    Raises:
        DatasetError: for conditions that cannot be read.
    """
    if entry.endswith(".csv"):
        return entry, {}
    path, mark, text = entry.partition(".csv@")
    if not mark:
        return None
    conditions = {}
    for condition in text.split(","):
        column, equals, values = condition.partition("=")
        if not equals or not values:
            raise DatasetError(
                f"{entry!r}: {condition!r} is not column=value or column=value|value"
            )
        conditions[column.strip()] = [value.strip() for value in values.split("|")]
    return path + ".csv", conditions


def _recoded(manifest: Manifest, column: str, names: Sequence[str]) -> np.ndarray:
    """Codes [N] of a column in a longer table of names."""
    position = {name: number for number, name in enumerate(names)}
    # The last entry is what UNKNOWN, -1, picks
    new = [position[name] for name in manifest.names[column]] + [UNKNOWN]
    return np.array(new, np.int32)[manifest.codes[column]]

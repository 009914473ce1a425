"""Real forgeries of DFDC, StyleGAN and FaceForensics++ c40, as restored: a manifest and masks.

The root is the folder that ``restore.py`` of the collection wrote: ``index.csv`` and
``SET/LABEL/NAME``. Pictures stay where they are. Written are: manifest.csv, a rough mask of the
forged region of every forgery that lies on its original, and the face crops of clips.

Left out, and counted: forgeries that changed under ``--least-change`` of the pixels of their
original, files that are missing or cannot be read (named, exit code 3).
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from comics.data.faces.manifest_files import write_manifest
from comics.data.preparation import MANIFEST
from comics.data.records import DatasetError

INDEX = "index.csv"
COLUMNS = {"set", "file", "label", "method", "group", "split", "original", "changed_share"}
COLUMNS |= {"border_difference"}
CLIPS = "ffpp_c40"  # the set of clips, for testing only; the others are pictures
EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3


def read_index(root: Path) -> list[dict[str, str]]:
    """The rows of ``root``/index.csv.

    Raises:
        DatasetError: if it is not there, has other columns or no row, or names a file that leads
            out of the root.
    """
    path = root / INDEX
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = sorted(COLUMNS - set(reader.fieldnames or ()))
            if missing:
                raise DatasetError(f"{path}: no column {', '.join(missing)}")
            rows = list(reader)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing: run restore.py of the collection first") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable CSV file: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: there are no rows")
    for number, row in enumerate(rows, 2):
        name = Path(row["file"] or "")
        if not row["file"] or name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{path}, line {number}: {row['file']!r} is no file below the root")
    return rows


def number(row: dict[str, str], column: str) -> float | None:
    """A measure of the index; None where it is empty (the original is not in the set).

    Raises:
        DatasetError: if it is no number.
    """
    try:
        return float(row[column]) if row[column] else None
    except ValueError:
        raise DatasetError(f"{row['file']}: {column} {row[column]!r} is no number") from None


class PictureRows:
    """From rows of the index that are pictures to rows of the manifest.

    Args:
        root: the restored folder.
        output: the manifest's folder.
        index: all rows of the index: originals are looked up among them.
        least_change, most_border: see the options of the command.
    """

    def __init__(
        self,
        root: Path,
        output: Path,
        index: Sequence[dict[str, str]],
        least_change: float,
        most_border: float,
    ) -> None:
        self._root, self._output = root, output
        self._least_change, self._most_border = least_change, most_border
        self._reals = {
            (row["set"], Path(row["file"]).stem): row["file"]
            for row in index
            if row["label"] == "real"
        }

    def is_changed(self, row: dict[str, str]) -> bool:
        """False for a forgery that (nearly) shows its original."""
        changed = number(row, "changed_share")
        return row["label"] != "fake" or changed is None or changed >= self._least_change

    def original(self, row: dict[str, str]) -> str:
        """File of the original that a forgery lies on, pixel by pixel; "" where there is none."""
        border = number(row, "border_difference")
        if row["label"] != "fake" or border is None or border > self._most_border:
            return ""
        return self._reals.get((row["set"], row["original"]), "")

    def row(self, row: dict[str, str]) -> dict[str, str]:
        """The row of the manifest, without mask."""
        original = self.original(row)
        fake = row["label"] == "fake"
        return {
            "path": self._relative(row["file"]),
            "video": f"{row['set']}/{Path(row['file']).stem}" if row["group"] else "",
            "label": row["label"],
            "method": row["method"] if fake else "",
            "target": row["group"],
            "paired_real": self._relative(original) if original else "",
            "split": row["split"],
            "set": row["set"],
            "group": row["group"],
        }

    def _relative(self, file: str) -> str:
        return Path(os.path.relpath(self._root / file, self._output)).as_posix()

"""Checks of a manifest that need its image files, or all of its rows together.

Faults of single rows are found while reading: ``comics.data.faces.manifest``.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from comics.data.faces.manifest import UNKNOWN, Manifest
from comics.data.records import DatasetError
from comics.structures import CLASS_NAMES, REAL


@dataclass(frozen=True)
class ManifestFault:
    """One fault: where, and what.

    ``code`` is "missing-file", "missing-pair", "missing-mask" or "shared-group", "shared-video",
    "shared-picture".
    """

    code: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.code}]"


def check_files(manifest: Manifest) -> list[ManifestFault]:
    """Rows whose picture, paired real picture or mask is not there; nothing is decoded."""
    faults, known = [], {}

    def absent(path: str) -> bool:
        if path not in known:
            known[path] = os.path.isfile(path)
        return not known[path]

    for index in range(len(manifest)):
        row = manifest[index]
        if absent(row.path):
            faults.append(ManifestFault("missing-file", row.place, f"no such file: {row.path}"))
        if row.paired_real and absent(row.paired_real):
            message = f"no such paired real picture: {row.paired_real}"
            faults.append(ManifestFault("missing-pair", row.place, message))
        if row.mask and not row.mask.startswith("{") and absent(row.mask):
            faults.append(ManifestFault("missing-mask", row.place, f"no such mask: {row.mask}"))
    return faults


def shared_groups(manifest: Manifest) -> list[ManifestFault]:
    """Groups, clips, pictures and paired real pictures that two parts share.

    A part is a split, of all files together; of rows without a split, their file. What a model
    learnt of a person would be tested on the same person.
    """
    splits = np.array([*manifest.names["split"], ""], dtype=object)[manifest.codes["split"]]
    files = np.array(manifest.files, dtype=object)[manifest.file]
    parts = np.where(splits == "", files, splits)
    faults = []
    for column, values in _keys(manifest).items():
        first: dict[str, int] = {}
        told: set[str] = set()
        for row, value in values:
            other = first.setdefault(value, row)
            if parts[other] == parts[row] or value in told:
                continue
            told.add(value)
            message = (
                f"{column} {value!r} is in {parts[row]!r}, and in {parts[other]!r} "
                f"({manifest.place(other)})"
            )
            faults.append(ManifestFault(f"shared-{column}", manifest.place(row), message))
    return faults


def _keys(manifest: Manifest) -> dict[str, list[tuple[int, str]]]:
    """By column, (row, value) of what must stay in one part; rows without a value are left out."""
    keys: dict[str, list[tuple[int, str]]] = {}
    for column in ("group", "video"):
        names, codes = manifest.names[column], manifest.codes[column]
        keys[column] = [(int(row), names[codes[row]]) for row in np.flatnonzero(codes != UNKNOWN)]
    roots = [os.path.realpath(root) for root in manifest.roots]
    keys["picture"] = [
        (row, os.path.normpath(os.path.join(roots[file], name)))
        for row, file in enumerate(manifest.file)
        for name in dict.fromkeys((manifest.paths[row], manifest.paired[row]))
        if name
    ]
    return keys


def require_both_classes(manifest: Manifest, purpose: str) -> None:
    """Refuse a set that has no real or no fake face.

    Raises:
        DatasetError: naming the files and the class that is absent.
    """
    for label, name in enumerate(CLASS_NAMES):
        if not (manifest.labels == label).any():
            raise DatasetError(
                f"{', '.join(manifest.files)}: none of {len(manifest)} rows is {name.lower()}; "
                f"{purpose} needs both classes"
            )


def require_reals(manifest: Manifest, purpose: str) -> None:
    """Refuse a set without a real face: self-blending makes its forgeries from these.

    Raises:
        DatasetError: naming the files.
    """
    if not (manifest.labels == REAL).any():
        raise DatasetError(
            f"{', '.join(manifest.files)}: none of {len(manifest)} rows is real; {purpose} makes "
            "its forgeries from real faces (INPUT.FACE.SELF_BLEND)"
        )


def summary(manifest: Manifest) -> str:
    """Rows by split, method and compression, as lines of text."""
    columns = ("split", "method", "compression")
    names = {c: np.array([*manifest.names[c], "-"], dtype=object) for c in columns}
    values = [names[column][manifest.codes[column]] for column in columns]
    counts = Counter(zip(*values, strict=True))
    lines = [f"{count:8d}  {' / '.join(key)}" for key, count in sorted(counts.items())]
    return "\n".join(["    rows  split / method / compression", *lines])

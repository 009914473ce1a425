"""Checks of a manifest that need its image files, or all of its rows together.

Faults of single rows are found while reading: ``comics.data.faces.manifest``.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from comics.data.faces.manifest import Manifest
from comics.data.records import DatasetError
from comics.structures import CLASS_NAMES


@dataclass(frozen=True)
class ManifestFault:
    """One fault: ``code`` ("missing-file", "missing-pair", "missing-mask"), where, and what."""

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


def summary(manifest: Manifest) -> str:
    """Rows by split, method and compression, as lines of text."""
    columns = ("split", "method", "compression")
    names = {c: np.array([*manifest.names[c], "-"], dtype=object) for c in columns}
    values = [names[column][manifest.codes[column]] for column in columns]
    counts = Counter(zip(*values, strict=True))
    lines = [f"{count:8d}  {' / '.join(key)}" for key, count in sorted(counts.items())]
    return "\n".join(["    rows  split / method / compression", *lines])

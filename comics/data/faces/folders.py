"""From folders of real and of forged face pictures to the rows of a manifest.

Splits go by groups, through a hash: the same pictures get the same splits on every machine, and
a picture that is added moves no other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from comics.data.images import DEFAULT_MAX_PIXELS, ImageError, decode_image
from comics.data.records import DatasetError
from comics.structures import CLASS_NAMES, FAKE

SPLITS = ("train", "val", "test")
SHOWN = 5  # files named in an error


@dataclass(frozen=True)
class LabelledFolder:
    """A folder whose pictures, at any depth, all have one label.

    Attributes:
        path: the folder.
        label: ``REAL`` or ``FAKE``.
        method: how its forgeries were made; "" for real ones.
    """

    path: Path
    label: int
    method: str = ""


@dataclass(frozen=True)
class SplitShares:
    """Which share of the groups goes to train, val and test.

    Raises:
        ValueError: for shares that are negative or do not add up to 1.
    """

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares of train, val, test must add up to 1, not {shares}")

    def split(self, group: str) -> str:
        """The split of a group."""
        digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.train:
            return "train"
        # A sum of shares may end a rounding error below 1
        return "val" if place < self.train + self.val or not self.test else "test"


@dataclass
class FolderRows:
    """What was found in folders.

    Attributes:
        rows: of the manifest, in the order of folders and names; paths are absolute.
        unreadable: (file, reason) of pictures that are left out.
        repeated: pictures left out since one of the same content and label is there.
        others: files that are no pictures.
        unmatched: pictures whose name the pattern does not match, groups of their own.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


def folder_rows(
    folders: Sequence[LabelledFolder],
    extensions: Collection[str],
    *,
    pattern: re.Pattern[str] | None = None,
    shares: SplitShares | None = None,
    set_name: str = "",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    workers: int = 2,
) -> FolderRows:
    """The rows of a manifest of all pictures below ``folders``; each is read whole.

    Args:
        folders: at least one of each label.
        extensions: suffixes of pictures, lower case with the dot.
        pattern: looked for in the path below the folder ("a/b.jpg"); its groups, joined by "_", or
            else the whole match, name the picture's group. None: the path without suffix does, so
            that pictures of one name in a real and a forged folder stay together.
        shares: of the splits; None for none.
        set_name: column ``set`` of all rows.
        max_pixels: larger pictures are unreadable.
        workers: threads that read.

    Raises:
        DatasetError: for a folder that is none or has no readable picture, a label without
            folder, one content in folders of both labels, or a pattern that matches no picture.
    """
    for label, name in enumerate(CLASS_NAMES):
        if not any(folder.label == label for folder in folders):
            raise DatasetError(f"no folder of {name.lower()} pictures is named; both are needed")
    found = FolderRows()
    known: dict[str, tuple[int, str]] = {}
    clashes: list[str] = []
    for folder in folders:
        count = 0
        for path, digest in _read_all(folder, extensions, found, max_pixels, workers):
            count += 1
            if digest not in known:
                known[digest] = folder.label, str(path)
                found.rows.append(_row(folder, path, pattern, set_name, found))
            elif known[digest][0] == folder.label:
                found.repeated.append(str(path))
            else:
                clashes.append(f"{path} and {known[digest][1]}")
        if not count:
            raise DatasetError(_empty(folder, found))
    if clashes:
        raise DatasetError(
            f"{len(clashes)} pictures are in a real and in a forged folder (same content): "
            + _some(clashes)
        )
    if pattern is not None and len(found.unmatched) == len(found.rows):
        raise DatasetError(
            f"the pattern {pattern.pattern!r} matches none of {len(found.rows)} pictures, such as "
            + _some(found.unmatched)
        )
    if shares is not None:
        for row in found.rows:
            row["split"] = shares.split(row["group"])
    return found


def lacking_splits(rows: Sequence[dict[str, str]], shares: SplitShares | None) -> list[str]:
    """Splits without a picture of a label, in words: few groups may all go elsewhere."""
    present = {(row.get("split"), row["label"]) for row in rows}
    return [
        f"split {split} has no {label} picture"
        for split in SPLITS
        for label in ("real", "fake")
        if shares and getattr(shares, split) and (split, label) not in present
    ]


def _row(
    folder: LabelledFolder,
    path: Path,
    pattern: re.Pattern[str] | None,
    set_name: str,
    found: FolderRows,
) -> dict[str, str]:
    inner = path.relative_to(folder.path)
    group = inner.with_suffix("").as_posix()
    if pattern is not None:
        match = pattern.search(inner.as_posix())
        if match is None:
            found.unmatched.append(str(path))
        else:
            parts = [part for part in match.groups() if part]
            group = "_".join(parts) or match[0] or group
    return {
        "path": os.path.abspath(path),
        "label": CLASS_NAMES[folder.label].lower(),
        "method": folder.method if folder.label == FAKE else "",
        "set": set_name,
        "group": group,
    }


def _read_all(
    folder: LabelledFolder,
    extensions: Collection[str],
    found: FolderRows,
    max_pixels: int,
    workers: int,
) -> Iterator[tuple[Path, str]]:
    """Readable pictures of a folder and the SHA-256 of their files, by name."""
    if not folder.path.is_dir():
        raise DatasetError(f"there is no folder {folder.path}")
    pictures = []
    for path in _files(folder.path):
        if path.suffix.lower() in extensions:
            pictures.append(path)
        else:
            found.others.append(str(path))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for path, read in zip(
            pictures, pool.map(lambda p: _read(p, max_pixels), pictures), strict=True
        ):
            if isinstance(read, str):
                yield path, read
            else:
                found.unreadable.append((str(path), read.reason))


def _read(path: Path, max_pixels: int) -> str | ImageError:
    try:
        data = path.read_bytes()
    except OSError as error:
        return ImageError(path, error.strerror or str(error))
    try:
        decode_image(data, path, max_pixels)
    except ImageError as error:
        return error
    return hashlib.sha256(data).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, by name; hidden ones, and folders behind links, are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _empty(folder: LabelledFolder, found: FolderRows) -> str:
    name = CLASS_NAMES[folder.label].lower()
    here = [
        f"{path}: {why}" for path, why in found.unreadable if Path(path).is_relative_to(folder.path)
    ]
    if here:
        return f"{folder.path}: none of {len(here)} {name} pictures can be read: {_some(here)}"
    return f"{folder.path}: there is no picture in this folder of {name} ones"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

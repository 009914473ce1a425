"""What there is to look at: files of folders, buckets, lists and Parquet tables of paths.

Nothing is opened here but lists and tables: of what a folder or bucket holds, names decide, and
what a file is, the worker that reads it finds out. Files that are named themselves are taken
whatever they are called. Items come as they are found, so memory does not grow with a bucket, but
with its largest folder.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from comics.data.content import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from comics.data.file_kinds import is_side_file, is_side_folder
from comics.data.file_names import display_name
from comics.scale.storage import (
    LOCAL,
    Location,
    StorageAbsent,
    StorageError,
    file_system,
    kind_of,
    locate,
    names_in,
    tried,
)

MEDIA = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
TABLE = ".parquet"
PATH_COLUMNS = ("path", "uri", "url", "file_name")  # the first of them that a table has
ROWS_AT_ONCE = 10_000  # of a table of paths
SHOWN_NAMES = 5


class ListingError(ValueError):
    """Inputs that cannot be listed: without all of them the job would be another."""


class Item(NamedTuple):
    """A file that is to be looked at.

    Attributes:
        place: address of its file system, see ``comics.scale.storage``.
        path: its name there, in the bytes of the file system.
        name: what results call it.
        size: bytes; -1: not known.
        modified: seconds since 1970; None: not known.
    """

    place: str
    path: bytes
    name: str
    size: int = -1
    modified: float | None = None


@dataclass
class Found:
    """What was met on the way: counts, and some names for people."""

    passed_over: int = 0
    examples: list[str] = field(default_factory=list)
    repeated: int = 0

    def pass_over(self, name: str) -> None:
        """Note a file that is no input."""
        self.passed_over += 1
        if len(self.examples) < SHOWN_NAMES:
            self.examples.append(display_name(PurePath(name).name))


def list_inputs(
    arguments: Sequence[str],
    listed: Iterator[str] | Sequence[str] = (),
    *,
    column: str | None = None,
    exclude: Location | None = None,
    found: Found | None = None,
) -> Iterator[Item]:
    """Every file that is meant, once, as it is found; in an order that is always the same.

    Args:
        arguments: paths and addresses of files, of folders (with those below), and of Parquet
            files (.parquet) with a column of paths.
        listed: paths and addresses of files, as lists hold them; not looked at.
        column: of tables of paths; None: the first of ``PATH_COLUMNS``.
        exclude: a folder that is passed over: the outputs.
        found: is told what was passed over.

    Raises:
        ListingError: for an input that is not there or may not be listed, or a table without the
            column.
    """
    found = found if found is not None else Found()
    several = len(arguments) > 1 or not isinstance(listed, Sequence) or bool(listed)
    seen = _Seen() if several or any(a.endswith(TABLE) for a in arguments) else None
    for argument in arguments:
        yield from _once(_of_argument(argument, column, exclude, found), seen, found)
    yield from _once((_named(name) for name in listed), seen, found)


def check_inputs(arguments: Sequence[str]) -> None:
    """Make sure that the inputs are there, before anything that takes time.

    Raises:
        ListingError: naming one that is not, or may not be looked at.
    """
    for argument in arguments:
        _existing(argument)


def _existing(argument: str) -> tuple[Location, str]:
    """Where an input is, and what."""
    try:
        location = locate(argument)
        kind = kind_of(location)
    except (StorageError, ValueError) as error:
        raise ListingError(str(error)) from error
    if kind is None:
        raise ListingError(f"{location.name}: no such file or folder")
    return location, kind


def _once(items: Iterator[Item], seen: _Seen | None, found: Found) -> Iterator[Item]:
    for item in items:
        if seen is None or seen.add(item):
            yield item
        else:
            found.repeated += 1


class _Seen:
    """Which items came before, on disk: a hundred million do not fit in memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a temporary file, gone with the connection
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE items (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, item: Item) -> bool:
        """Whether it is new."""
        path = item.path if item.place != LOCAL else os.path.realpath(item.path)
        digest = hashlib.blake2b(item.place.encode() + b"\0" + path, digest_size=16).digest()
        cursor = self._database.execute("INSERT OR IGNORE INTO items VALUES (?)", (digest,))
        return cursor.rowcount > 0


def _of_argument(
    argument: str, column: str | None, exclude: Location | None, found: Found
) -> Iterator[Item]:
    location, kind = _existing(argument)
    try:
        if argument.endswith(TABLE):
            yield from _of_tables(location, kind, column)
        elif kind == "file":
            yield _item(location)
        elif location.is_local:
            yield from _walk(location.path, location.name, (), exclude, found)
        else:
            yield from _walk_store(location, exclude, found)
    except StorageError as error:
        raise ListingError(str(error)) from error


def _named(text: str) -> Item:
    try:
        return _item(locate(text))
    except ValueError as error:
        raise ListingError(str(error)) from error


def _item(location: Location, size: int = -1, modified: float | None = None) -> Item:
    name = display_name(location.name)
    return Item(location.place, os.fsencode(location.path), name, size, modified)


def _walk(
    folder: str, shown: str, parents: tuple[str, ...], exclude: Location | None, found: Found
) -> Iterator[Item]:
    """Media files of a folder of this machine; links are followed, but in no circle."""
    identity = os.path.realpath(folder)
    if exclude is not None and exclude.is_local and identity == os.path.realpath(exclude.path):
        return
    if identity in parents:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ListingError(f"{display_name(shown)}: {error.strerror or error}") from error
    for entry in entries:
        name = f"{shown.rstrip('/')}/{entry.name}"
        if entry.is_dir():
            if not is_side_folder(entry.name):
                yield from _walk(entry.path, name, (*parents, identity), exclude, found)
        elif _is_media(entry.name):
            yield Item(LOCAL, os.fsencode(entry.path), display_name(name))
        else:
            found.pass_over(entry.name)


def _walk_store(folder: Location, exclude: Location | None, found: Found) -> Iterator[Item]:
    """Media files of a folder of a store, folder by folder."""
    if exclude is not None and (folder.place, folder.path) == (exclude.place, exclude.path):
        return
    for info in _entries(folder):
        below = folder / info.base_name
        if _is_folder(info):
            if not is_side_folder(info.base_name):
                yield from _walk_store(below, exclude, found)
        elif _is_media(info.base_name):
            modified = None if info.mtime_ns is None else info.mtime_ns / 1e9
            yield _item(below, info.size if info.size is not None else -1, modified)
        else:
            found.pass_over(info.base_name)


def _entries(folder: Location) -> list[Any]:
    """What a folder of a store holds, in the order of the names."""
    from pyarrow import fs

    system = file_system(folder.place)
    selector = fs.FileSelector(folder.path, allow_not_found=False)
    return sorted(
        tried(folder.name, "list", lambda: system.get_file_info(selector)),
        key=lambda info: info.base_name,
    )


def _is_folder(info: Any) -> bool:
    from pyarrow import fs

    return info.type == fs.FileType.Directory


def _is_media(name: str) -> bool:
    return PurePath(name).suffix.lower() in MEDIA and not is_side_file(name)


def _of_tables(location: Location, kind: str, column: str | None) -> Iterator[Item]:
    """The paths of a Parquet file, or of those of a folder, as Spark writes it."""
    if kind == "file":
        yield from _of_table(location, column)
        return
    names = [name for name in names_in(location) if name.endswith(TABLE)]
    if not names:
        raise ListingError(f"{location.name}: no .parquet file in this folder")
    for name in names:
        yield from _of_table(location / name, column)


def _of_table(location: Location, column: str | None) -> Iterator[Item]:
    import pyarrow
    from pyarrow import parquet

    try:
        with file_system(location.place).open_input_file(location.path) as stream:
            file = parquet.ParquetFile(stream)
            chosen = _path_column(location, file.schema_arrow, column)
            row = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    if not isinstance(value, str) or not value:
                        raise ListingError(f"{location.name}: row {row}: no path in {chosen!r}")
                    yield _named(value)
                    row += 1
    except FileNotFoundError as error:
        raise StorageAbsent(f"{location.name}: no such file") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ListingError(f"{location.name}: no Parquet file: {_first_line(error)}") from error


def _path_column(location: Location, schema: Any, column: str | None) -> str:
    """The column of paths.

    Raises:
        ListingError: if there is none.
    """
    import pyarrow

    wanted = PATH_COLUMNS if column is None else (column,)
    chosen = next((name for name in wanted if name in schema.names), None)
    if chosen is None:
        have = ", ".join(schema.names) or "none"
        told = " or ".join(map(repr, wanted))
        raise ListingError(
            f"{location.name}: no column {told} (it has: {have}); --path-column names another"
        )
    kind = schema.field(chosen).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise ListingError(f"{location.name}: column {chosen!r} is {kind}, not text")
    return chosen


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

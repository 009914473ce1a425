"""Files and folders by their address: on this machine, in an object store, in what fsspec knows.

``s3://``, ``gs://``, ``abfs://`` and ``hdfs://`` go through pyarrow, other schemes through the
fsspec package of their name. Credentials come from where these look for them (environment
variables, ~/.aws, the machine's role), never from an address: addresses end up in results.

Only ``pyarrow`` is needed here; it is imported when a file is first touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from comics.data.file_names import display_name
from comics.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, write_bytes

Result = TypeVar("Result")

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
LOCAL = ""  # the file system of this machine
OBJECT_STORES = ("s3", "gs", "gcs")
PYARROWS = (*OBJECT_STORES, "abfs", "abfss", "hdfs", "viewfs")
# What may stand behind the "?" of an address; elsewhere the sign is part of a name
OPTIONS = {"endpoint_override", "scheme", "region", "allow_bucket_creation", "retry_limit_seconds"}
TRIES = 4  # of an operation on a store that fails for a moment
PAUSE_S = 0.5  # before the second try; doubled each time
COPY_BYTES = 1 << 22
DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|Forbidden|HTTP status 40[13]|INVALID_ACCESS_KEY|InvalidAccessKey|"
    r"SIGNATURE_DOES_NOT_MATCH|NO_CREDENTIALS|Unauthenticated|PERMISSION_DENIED|permission",
    re.IGNORECASE,
)
ABSENT = re.compile(r"NO_SUCH_(BUCKET|KEY)|HTTP status 404|does not exist", re.IGNORECASE)
AWS_ERROR = re.compile(r"AWS Error (\w+) during (\w+) operation(?: \(HTTP status (\d+)\))?")


class StorageError(OSError):
    """What could not be done with which address, and why."""


class StorageDenied(StorageError):
    """It may not be read or written."""


class StorageAbsent(StorageError):
    """There is nothing of that name."""


class StorageFull(StorageError):
    """There is no room left."""


@dataclass(frozen=True)
class Location:
    """A file or folder.

    Attributes:
        place: address of its file system; ``LOCAL``: this machine's.
        path: its name there.
        name: as people are shown it.
    """

    place: str
    path: str
    name: str

    def __truediv__(self, part: str) -> Location:
        return Location(self.place, f"{self.path.rstrip('/')}/{part}", f"{self.name}/{part}")

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return self.place == LOCAL


def locate(text: str | os.PathLike) -> Location:
    """Where an address or path leads. Nothing is opened.

    Behind the "?" of an address may stand options of its store, as pyarrow knows them:
    ``s3://bucket/folder?endpoint_override=localhost:9000&scheme=http``.

    Raises:
        ValueError: for an address with a password in it, or without a bucket.
    """
    text = os.fspath(text)
    match = SCHEME.fullmatch(text)
    if match is None:
        return Location(LOCAL, os.path.abspath(text), text.rstrip("/") or text)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        path = unquote(urlsplit(text).path)
        return Location(LOCAL, os.path.abspath(path), path.rstrip("/") or path)
    host, slash, below = rest.partition("/")
    if "@" in host and (scheme in OBJECT_STORES or ":" in host.partition("@")[0]):
        raise ValueError(
            f"the address {scheme}://…@{host.rpartition('@')[2]} holds credentials, which would "
            "end up in results: give them by the environment (AWS_ACCESS_KEY_ID, "
            "GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    host, below, options = _without_options(host, below)
    if not host:
        raise ValueError(f"{text} names no bucket or host")
    below = below.strip("/")
    name = f"{scheme}://{host}" + (f"/{below}" if below else "")
    place = f"{scheme}://{host}/{options}"
    if scheme in OBJECT_STORES:
        return Location(place, f"{host}/{below}".rstrip("/"), name)
    path = f"{host}/{below}" if scheme not in PYARROWS else f"/{below}"
    return Location(place, path.rstrip("/"), name)


def _without_options(host: str, below: str) -> tuple[str, str, str]:
    """Host and path of an address, and what is behind its "?" where that is options."""
    whole, mark, options = f"{host}/{below}".rpartition("?")
    names = {name for name, _ in parse_qsl(options, keep_blank_values=True)}
    if not mark or not names or not names <= OPTIONS:
        return host, below, ""
    host, _, below = whole.partition("/")
    return host, below, f"?{options}"


@lru_cache(maxsize=256)
def file_system(place: str) -> Any:
    """The ``pyarrow.fs.FileSystem`` of a place.

    Raises:
        StorageError: if its store is not known here, or cannot be reached.
    """
    from pyarrow import fs

    if place == LOCAL:
        return fs.LocalFileSystem()
    scheme = place.partition("://")[0]
    with _told(place, "open"):
        if scheme in PYARROWS:
            return fs.FileSystem.from_uri(place)[0]
        import fsspec

        try:
            found, _ = fsspec.core.url_to_fs(place)
        except (ValueError, ImportError) as error:
            raise StorageError(f"{place}: {error}") from error
        return fs.PyFileSystem(fs.FSSpecHandler(found))


def read_file(location: Location) -> bytes:
    """The whole content of a file."""

    def read() -> bytes:
        with file_system(location.place).open_input_stream(location.path) as stream:
            return stream.read()

    return tried(location.name, "read", read)


def fetch(location: Location, target: str | os.PathLike) -> None:
    """Copy a file to a path of this machine."""

    def copy() -> None:
        with (
            file_system(location.place).open_input_stream(location.path) as stream,
            _full_is_told(target),
            open(target, "wb") as file,
        ):
            while block := stream.read(COPY_BYTES):
                file.write(block)

    tried(location.name, "read", copy)


def write_file(location: Location, content: bytes) -> None:
    """Write a file: whole under its name, or not at all; an older one is replaced.

    It is written under a temporary name and renamed. In an object store that is a copy and a
    deletion: the object appears at once, too.
    """
    if location.is_local:
        with _told(location.name, "write"):
            write_bytes(location.path, content)
        return
    system = file_system(location.place)
    folder, _, own = location.path.rpartition("/")
    temporary = f"{folder}/{TEMPORARY_PREFIX}{own}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"

    def write() -> None:
        if system.type_name not in OBJECT_STORES:  # which have no folders
            system.create_dir(folder, recursive=True)
        try:
            with system.open_output_stream(temporary) as stream:
                stream.write(content)
            system.move(temporary, location.path)
        except Exception:
            with contextlib.suppress(Exception):
                system.delete_file(temporary)
            raise

    tried(location.name, "write", write)


def kind_of(location: Location) -> str | None:
    """ "file", "folder", or None of what is not there."""
    from pyarrow import fs

    found = tried(
        location.name, "read", lambda: file_system(location.place).get_file_info(location.path)
    )
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found.type)


def names_in(folder: Location) -> list[str]:
    """Names of the files of a folder, sorted; none of one that is not there."""
    from pyarrow import fs

    selector = fs.FileSelector(folder.path, allow_not_found=True)
    found = tried(folder.name, "list", lambda: file_system(folder.place).get_file_info(selector))
    return sorted(info.base_name for info in found if info.type == fs.FileType.File)


def delete(location: Location) -> None:
    """Delete a file; one that is not there is no fault."""
    with contextlib.suppress(StorageAbsent):
        tried(
            location.name, "delete", lambda: file_system(location.place).delete_file(location.path)
        )


def delete_folder(folder: Location) -> None:
    """Delete a folder with what it holds; one that is not there is no fault."""
    with contextlib.suppress(StorageAbsent):
        if kind_of(folder) == "folder":
            tried(folder.name, "delete", lambda: file_system(folder.place).delete_dir(folder.path))


def delete_leftovers(folder: Location) -> None:
    """Delete what killed writers left half written in a folder."""
    for name in names_in(folder):
        if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
            delete(folder / name)


def tried(name: str, what: str, action: Callable[[], Result]) -> Result:
    """The result of an operation, tried again where its store fails for a moment.

    Args:
        name: of the file or folder.
        what: is done: "read", "write", "list", "delete".
        action: does it.

    Raises:
        StorageError: if it cannot be done.
    """
    pause = PAUSE_S
    for _ in range(TRIES - 1):
        try:
            with _told(name, what):
                return action()
        except (StorageDenied, StorageAbsent, StorageFull):
            raise
        except StorageError:
            time.sleep(pause)
            pause *= 2
    with _told(name, what):
        return action()


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Faults of a file system become ``StorageError``, with what was to be done."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        text = str(error)
        number = getattr(error, "errno", None)
        if isinstance(error, FileNotFoundError) or ABSENT.search(text):
            raise StorageAbsent(f"{name}: no such file or folder") from error
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            raise StorageFull(f"{name}: cannot {what}: no space left") from error
        denied = isinstance(error, PermissionError) or DENIED.search(text)
        kind = StorageDenied if denied else StorageError
        raise kind(f"{name}: cannot {what}: {_short(error)}") from error


@contextlib.contextmanager
def _full_is_told(target: str | os.PathLike) -> Iterator[None]:
    """A full disk of this machine is no fault of the store that is read."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = display_name(PurePosixPath(os.fspath(target)).parent)
            raise StorageFull(f"{folder}: no space left for files that are fetched") from error
        raise


def _short(error: Exception) -> str:
    """What an error says, without the pages that the libraries of stores add."""
    text = str(error)
    if aws := AWS_ERROR.search(text):
        status = f", HTTP status {aws[3]}" if aws[3] else ""
        return f"{aws[1]} ({aws[2]}{status})"
    if isinstance(error, PermissionError):
        return "permission denied"
    return display_name((getattr(error, "strerror", None) or text).splitlines()[0][:300])

"""Writing of files: whole under their final name or not at all, by one process in a folder.

Everything that the package writes goes through ``atomic_path``. What a killed process leaves behind
are temporary files, ``.<random>.part``; ``remove_leftovers`` deletes them once ``hold_folder`` says
that no other process works in the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

try:  # POSIX only; elsewhere two runs in one folder are not kept apart
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # which is what it is where there is none

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".", ".part"
LEFTOVERS = (f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}",)
LOCK = ".lock"
FILE_MODE = 0o644  # mkstemp makes files that only their owner can read

_held: set[int] = set()  # descriptors of this process's locks


class FolderInUse(ValueError):
    """Another process works in the folder."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends without an exception.

    The folder is made where it is absent. On an exception the temporary file is deleted and an
    older file at ``path`` stays as it was.

    Args:
        path: where the file is to appear.
        durable: wait until the disk has it, so that a power cut leaves the old file or the new
            one. False for many small files that are checked when they are read.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        os.chmod(temporary, FILE_MODE)
        os.replace(temporary, path)
        if durable:
            _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, content: bytes, *, durable: bool = True) -> None:
    """Write a file atomically; arguments as ``atomic_path``."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike, text: str, *, durable: bool = True) -> None:
    """Write a text file, UTF-8, atomically; arguments as ``atomic_path``."""
    write_bytes(path, text.encode("utf-8"), durable=durable)


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike, name: str = LOCK) -> Iterator[bool]:
    """Keep other processes out of a folder until the block, or this process, ends, however it ends.

    Args:
        folder: must exist.
        name: of the lock file in it, which is deleted at the end; a killed process leaves it.

    Yields:
        Whether it is known that no other process works there: False on file systems and operating
        systems without locks, where nobody is kept out.

    Raises:
        FolderInUse: if another process holds it.
        OSError: if the lock file cannot be opened.
    """
    path = Path(folder) / name
    handle, alone = _open_and_lock(path)
    if handle is None:
        raise FolderInUse(
            f"another run is writing to {folder}: wait for its end, or choose another folder"
        )
    _held.add(handle)
    try:
        yield alone
    finally:
        if handle in _held:  # not in a forked child, which has let go of it
            _held.discard(handle)
            if alone:
                with contextlib.suppress(OSError):
                    path.unlink()
            os.close(handle)


def _open_and_lock(path: Path) -> tuple[int | None, bool]:
    """A descriptor of the lock file, None if another process has it, and whether it is locked."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        handle = os.open(path, flags, FILE_MODE)
        try:
            if not _lock(handle):
                return handle, False
            if _is_file_at(handle, path):
                return handle, True
        except BlockingIOError:
            os.close(handle)
            return None, False
        os.close(handle)  # its owner deleted it just before we had it: what is there now counts


def _lock(handle: int) -> bool:
    """Lock an open file; False where there are no locks; BlockingIOError if it is another's."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    own = os.fstat(handle)
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


def _let_go() -> None:
    """In a forked child, such as a worker of a DataLoader: it must not outlive the lock's owner."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def remove_leftovers(
    folder: str | os.PathLike,
    subfolders: Iterable[str] = (),
    patterns: Iterable[str] = LEFTOVERS,
) -> int:
    """Delete the temporary files of killed processes; returns how many there were.

    Only plain files are deleted, links are not followed, and what cannot be deleted stays.

    Args:
        folder: whose own files are looked at, while ``hold_folder`` keeps others out.
        subfolders: names of folders in it that are looked at with everything below them.
        patterns: of names.
    """
    folder, patterns, count = Path(folder), tuple(patterns), 0
    places = [folder]
    for name in subfolders:
        if not (folder / name).is_symlink():
            places += [Path(place) for place, _, _ in os.walk(folder / name)]
    for place in places:
        for pattern in patterns:
            for path in place.glob(pattern):
                with contextlib.suppress(OSError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        path.unlink()
                        count += 1
    return count


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system lets folders be flushed."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems do not
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

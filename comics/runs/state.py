"""What a run has finished, kept on disk, so that the same command continues after any interruption.

``<output>/.comics/`` holds::

    settings.json   what results depend on: the model's provenance and the options of the run
    entries.tsv     one line per picture or frame: an ``ImageRecord``; the lines of one file are
                    together
    files.jsonl     one line per finished file: its path, size and time of change, its outcome, the
                    name of its outputs, and which bytes of entries.tsv are its own (checksummed)
    history.jsonl   when the run was begun, and ended, by which command: see comics.runs.history
    lock            held while a run writes here

A line of ``files.jsonl`` is written after everything it speaks of, so whatever a killed run left
behind it is not finished, and is cut off when the next one begins. Failed files have no line: they
are tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import IO

from comics.data.custody.facts import FileFacts
from comics.files import FolderInUse, hold_folder, remove_leftovers, write_bytes
from comics.inference.files import refuse_links
from comics.runs.inputs import InputFile
from comics.runs.outputs import FileStatus
from comics.runs.records import FileRecord, ImageRecord

STATE_FOLDER = ".comics"
SETTINGS, ENTRIES, FILES, LOCK = "settings.json", "entries.tsv", "files.jsonl", "lock"
FORMER_ENTRIES = "entries.jsonl"  # of versions whose results have schema 1
SCHEMA = "schema_version"  # the setting that tells the version of a run's results
HISTORY = "history.jsonl"
SHOWN_DIFFERENCES = 5


class SettingsError(ValueError):
    """An output folder that belongs to a run with other settings, or to one that is going on."""


@dataclass(frozen=True)
class FinishedFile:
    """A line of ``files.jsonl``.

    Attributes:
        status: what became of the file.
        base: name of its outputs without extension, see ``FileOutputs``.
        start, end: its bytes of ``entries.tsv``.
        crc: CRC-32 of those bytes.
    """

    status: FileStatus
    base: PurePath
    start: int
    end: int
    crc: int


class RunState:
    """Finished files and their entries, in ``folder``; made by ``open_state``.

    The records of a file are added by ``add``, then ``finish`` makes them count, or
    ``discard`` drops them. One file at a time.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._entries = _open(folder / ENTRIES, "a+b")
        self._files = _open(folder / FILES, "a+b")
        self._finished: dict[str, tuple[tuple, FinishedFile]] = {}  # by path: one may change
        self._start, self._crc = 0, 0
        self.folder = folder
        self._load()

    def finished(self, file: InputFile) -> FinishedFile | None:
        """What is known of an input; None if it is to be processed, or has changed since."""
        key = file_key(file)
        known = None if key is None else self._finished.get(key[0])
        return known[1] if known is not None and known[0] == key else None

    def earlier(self, file: InputFile) -> FinishedFile | None:
        """What is known of an input as it once was; None if nothing is."""
        known = self._finished.get(os.fspath(file.path)) if file.live is None else None
        return None if known is None else known[1]

    def add(self, record: ImageRecord) -> None:
        """Add a picture or frame of the file at hand."""
        line = record.to_line().encode("ascii")
        self._entries.write(line)
        self._crc = zlib.crc32(line, self._crc)

    def finish(self, key: tuple | None, status: FileStatus, base: PurePath) -> FinishedFile:
        """The file at hand is finished; what is known of it.

        Args:
            key: ``file_key`` of it as it was before it was read; None: of a live source, which is
                not remembered beyond this run.
            status: what became of it.
            base: name of its outputs without extension.

        Raises:
            OSError: if the disk is full; the file is then not finished.
        """
        self._entries.flush()
        end = self._entries.tell()
        finished = FinishedFile(status, base, self._start, end, self._crc)
        if key is not None:
            self._files.write(_encode(key, finished))
            self._files.flush()
            self._finished[key[0]] = (key, finished)
        self._start, self._crc = end, 0
        return finished

    def discard(self) -> None:
        """Drop the entries of the file at hand."""
        self._entries.flush()
        self._entries.truncate(self._start)
        self._entries.seek(self._start)
        self._crc = 0

    def file_record(self, finished: FinishedFile) -> FileRecord:
        """What outputs are made from, of a finished file."""
        self._entries.flush()
        return FileRecord(finished.status, Path(self._entries.name), finished.start, finished.end)

    def bases(self) -> list[PurePath]:
        """Names that outputs of finished files have."""
        return [finished.base for _, finished in self._finished.values()]

    def close(self) -> None:
        """Close the files; a full disk, or the like, no longer matters here."""
        for file in (self._entries, self._files):
            with contextlib.suppress(OSError):
                file.close()

    def _load(self) -> None:
        """Read what is finished, and cut off what is not."""
        self._files.seek(0)
        sound = 0
        for line in self._files:
            known = _decode(line)
            if known is None:
                break
            sound += len(line)
            key, finished = known
            self._finished.pop(key[0], None)
            if self._is_whole(finished):
                self._finished[key[0]] = (key, finished)
                self._start = max(self._start, finished.end)
        self._files.truncate(sound)
        self._files.seek(sound)
        self._entries.truncate(self._start)
        self._entries.seek(self._start)

    def _is_whole(self, finished: FinishedFile) -> bool:
        self._entries.seek(finished.start)
        left, crc = finished.end - finished.start, 0
        while left > 0 and (block := self._entries.read(min(left, 1 << 20))):
            crc = zlib.crc32(block, crc)
            left -= len(block)
        return not left and crc == finished.crc


@contextlib.contextmanager
def open_state(
    output: Path,
    settings: Mapping[str, object],
    overwrite: bool = False,
    subfolders: Sequence[str] = (),
) -> Iterator[RunState]:
    """The state of the run that writes to ``output``, of which it must be the only one.

    Args:
        output: folder of the run; made if absent.
        settings: what the results depend on; JSON.
        overwrite: forget what an earlier run finished there.
        subfolders: folders of outputs in it; what killed runs left half written there is deleted.

    Raises:
        SettingsError: naming the differences, if an earlier run there had other settings and
            ``overwrite`` is not set; or if another run is writing there now.
        OSError: if the folder cannot be made or written.
    """
    for name in (STATE_FOLDER, *subfolders):
        refuse_links(output, name)
    folder = output / STATE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with _held(output) as alone:
        if alone:
            remove_leftovers(output, (STATE_FOLDER, *subfolders))
        settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        if overwrite:
            # FILES first: it alone makes entries count
            for name in (FILES, ENTRIES, FORMER_ENTRIES, SETTINGS, HISTORY):
                (folder / name).unlink(missing_ok=True)
        known = _known_settings(folder)
        if known is None:
            for name in (FILES, HISTORY):
                (folder / name).unlink(missing_ok=True)
            write_bytes(folder / SETTINGS, json.dumps(settings, indent=1).encode())
        elif different := differences(known, settings):
            raise SettingsError(_refusal(output, known, settings, different))
        state = RunState(folder)
        try:
            yield state
        finally:
            state.close()


def _refusal(output: Path, old: Mapping, new: Mapping, different: Sequence[str]) -> str:
    """Why the run in a folder is not continued, and what to do."""
    if old.get(SCHEMA) != new.get(SCHEMA):
        return (
            f"{output} holds a run of {_which_version(old.get(SCHEMA), new.get(SCHEMA))} of this "
            "program, which cannot be continued. Choose another folder, or --overwrite to do it "
            "again there; comics report makes a page of the run as it is"
        )
    return (
        f"{output} holds a run with other settings: {'; '.join(different)}. Choose another "
        "folder, the same settings, or --overwrite"
    )


def _which_version(found: object, own: object) -> str:
    try:
        earlier = [int(part) for part in str(found).split(".")] < [
            int(part) for part in str(own).split(".")
        ]
    except ValueError:
        return "another version"
    return "an earlier version" if earlier else "a later version"


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Where two nested mappings differ: "name: old -> new", a few at most."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name}: {json.dumps(one)} -> {json.dumps(other)}")
    if len(found) > SHOWN_DIFFERENCES and not prefix:
        left = len(found) - SHOWN_DIFFERENCES
        return [*found[:SHOWN_DIFFERENCES], f"and {left} more"]
    return found


def file_key(file: InputFile) -> tuple[str, int, int] | None:
    """What a finished file is known again by: path as given, bytes, time of change (ns).

    None of what cannot be known again: a live source, or a file that is not there.
    """
    if file.live is not None:
        return None
    try:
        found = os.stat(file.path)
    except (OSError, ValueError):
        return None
    return os.fspath(file.path), found.st_size, found.st_mtime_ns


def _open(path: Path, mode: str) -> IO[bytes]:
    """A file of the state, opened unless a symbolic link leads elsewhere."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    refuse_links(path.parent, path.name)
    return open(path, mode, opener=opener)


@contextlib.contextmanager
def _held(output: Path) -> Iterator[bool]:
    """As ``hold_folder``: no other run writes to the folder until the block ends."""
    with contextlib.ExitStack() as lock:
        try:
            alone = lock.enter_context(hold_folder(output, f"{STATE_FOLDER}/{LOCK}"))
        except FolderInUse as error:
            raise SettingsError(str(error)) from None
        yield alone


def _known_settings(folder: Path) -> dict | None:
    """Settings of the earlier run; None if there was none, or they cannot be read."""
    try:
        known = json.loads((folder / SETTINGS).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _encode(key: tuple, finished: FinishedFile) -> bytes:
    value = {
        "key": list(key),
        "status": asdict(finished.status),
        "base": finished.base.as_posix(),
        "start": finished.start,
        "end": finished.end,
        "crc": finished.crc,
    }
    line = json.dumps(value, allow_nan=False).encode()
    return b"%08x " % zlib.crc32(line) + line + b"\n"


def _decode(line: bytes) -> tuple[tuple, FinishedFile] | None:
    """The reverse; None for a line that was not written to its end."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    value = json.loads(text)
    known = {field.name for field in fields(FileStatus)}
    told = {k: v for k, v in value["status"].items() if k in known}
    if told.get("facts") is not None:
        told["facts"] = FileFacts.from_entry(told["facts"])
    status = FileStatus(**told)
    base = PurePath(value["base"])
    finished = FinishedFile(status, base, value["start"], value["end"], value["crc"])
    return tuple(value["key"]), finished

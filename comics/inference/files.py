"""Names of output files: safe, printable, each of its own; they are written by comics.files."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from comics.data.file_names import display_name as display_name  # outputs' names are here
from comics.files import write_bytes

MAX_NAME_BYTES = 200  # of one part of an output path; most file systems allow 255
UNSAFE = re.compile(r"[^\w .()+,=@~-]", re.ASCII)  # kept: letters, digits and harmless punctuation
# Names that Windows gives to devices, whatever their extension
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def refuse_links(folder: Path, name: PurePath | str) -> Path:
    """``folder / name``, unless a symbolic link below ``folder`` leads elsewhere.

    A folder of outputs may come from a stranger; ``folder`` itself is what the user named.

    Raises:
        OSError: naming the link.
    """
    path = folder
    for part in PurePath(name).parts:
        path /= part
        if path.is_symlink():
            reason = "a symbolic link, through which no output is written"
            raise OSError(errno.ELOOP, reason, str(path))
    return path


def safe_name(name: str) -> str:
    """One part of a path, reduced to ASCII letters, digits and harmless punctuation.

    Anything else becomes ``_``; the result is never empty, hidden, "..", or a device's name.
    """
    name = UNSAFE.sub("_", name)[-MAX_NAME_BYTES:].strip(" .") or "_"
    return f"_{name}" if RESERVED.fullmatch(name) else name


class OutputNames:
    """Gives every input an output name of its own, mirroring its place below the input folder."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next_number: dict[str, int] = {}  # so that a thousand equal names stay quick

    def claim(self, relative: PurePath, *suffixes: str) -> PurePath:
        """The safe form of ``relative`` with the extension ``suffix``, numbered if it is taken.

        Two names that differ in case only count as the same, since they are on some file systems.

        Args:
            relative: the input's place.
            suffixes: the extension; of several, the name is free with each, and returned with the
                first.
        """
        folders = [safe_name(part) for part in relative.parent.parts if part not in ("..", "/")]
        stem = safe_name(relative.stem)
        counter = str(PurePath(*folders, stem + "".join(suffixes))).casefold()
        number = self._next_number.get(counter, 1)
        while True:
            name = stem if number == 1 else f"{stem}-{number}"
            candidates = [PurePath(*folders, name + suffix) for suffix in suffixes]
            number += 1
            if not any(str(path).casefold() in self._taken for path in candidates):
                self._next_number[counter] = number
                for path in candidates:
                    self.reserve(path)
                return candidates[0]

    def reserve(self, name: PurePath) -> None:
        """Mark a name as taken."""
        self._taken.add(str(name).casefold())


@dataclass(frozen=True)
class FileOutputs:
    """Where the outputs of one input go.

    Attributes:
        folder: of the run.
        base: the input's name among the outputs, without extension: relative, safe, its own.
    """

    folder: Path
    base: PurePath

    def name(self, subfolder: str, suffix: str) -> str:
        """Path of an output relative to ``folder``: ``name("media", ".mp4")``."""
        return (PurePath(subfolder) / self.base.parent / (self.base.name + suffix)).as_posix()

    def write(self, subfolder: str, suffix: str, content: bytes) -> str:
        """Write an output atomically; returns its name.

        Raises:
            OSError: if it cannot be written.
        """
        name = self.name(subfolder, suffix)
        write_bytes(refuse_links(self.folder, name), content)
        return name

"""Reading the JSON documents of a run as a stream: a long video's results do not fit in memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20  # characters read at once
WHITESPACE = re.compile(r"[ \t\n\r]*")  # of JSON
ENDS = (",", ":", "]", "}")  # one of them follows every value


class ResultsError(ValueError):
    """A document that is not one of a run: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_members(path: str | os.PathLike, chunk: int = CHUNK) -> Iterator[tuple[str, Any]]:
    """(name, value) of every member of a JSON object, and (name, item) of every item of a list.

    An empty list yields nothing. Memory holds one value, or one item, at a time.

    Args:
        path: of the document, UTF-8.
        chunk: characters read at once.

    Raises:
        ResultsError: if the file is absent, cannot be read, or is no JSON object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            yield from _Reader(file, chunk).members()
    except FileNotFoundError as error:
        raise ResultsError(path, "no such file") from error
    except OSError as error:
        raise ResultsError(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(path, f"not a JSON object: {error}") from error


def inner_path(folder: Path, name: object) -> Path | None:
    """The file of a run that a document names; None if that is no file inside ``folder``.

    The document may come from a stranger: a path in it must not lead to other files.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # too long a name, a loop of links, a lone surrogate
        return None
    return path if inside else None


def _behind_space(text: str, at: int) -> int:
    space = WHITESPACE.match(text, at)
    assert space is not None  # it may be empty
    return space.end()


class _Reader:
    """A position in a text that is read as far as it is needed."""

    def __init__(self, file: IO[str], chunk: int) -> None:
        self._file, self._chunk = file, chunk
        self._text, self._at = "", 0
        self._decoder = json.JSONDecoder()

    def members(self) -> Iterator[tuple[str, object]]:
        """(name, value) of the outermost object in order; a list comes item by item."""
        self._expect("{")
        if self._next() == "}":
            self._at += 1
        else:
            while True:
                name = self._value()
                if not isinstance(name, str):
                    raise ValueError(f"a name was expected, got {name!r}")
                self._expect(":")
                if self._next() == "[":
                    for item in self._items():
                        yield name, item
                else:
                    yield name, self._value()
                if self._one_of(",}") == "}":
                    break
        if self._next():
            raise ValueError("text after its end")

    def _items(self) -> Iterator[object]:
        self._expect("[")
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            if self._one_of(",]") == "]":
                return

    def _value(self) -> object:
        """The value that begins here. What ends it must be seen: 12 may go on as 123 or 12.5."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                after = _behind_space(self._text, end)
                if self._text[after : after + 1] in ENDS:
                    self._at = end
                    return value
            except json.JSONDecodeError:
                # Half a value; a whole one that is wrong is found at the end of the file
                pass
            if not self._read():
                # Either no value, said by the decoder, or one that nothing ends
                self._decoder.raw_decode(self._text, self._at)
                raise ValueError("a value without an end")

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._at = _behind_space(self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _expect(self, character: str) -> None:
        self._one_of(character)

    def _one_of(self, characters: str) -> str:
        found = self._next()
        if not found or found not in characters:
            what = " or ".join(repr(character) for character in characters)
            raise ValueError(f"{what} was expected, got {found!r}")
        self._at += 1
        return found

    def _read(self) -> bool:
        """Read on, twice as much if a value is long; False at the end of the file."""
        more = self._file.read(max(self._chunk, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

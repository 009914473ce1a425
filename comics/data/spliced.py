"""Parts of a file, and bytes between them, read as one file: nothing is copied ahead."""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 1 << 20  # bytes read at once where a file is gone through

Part = bytes | tuple[int, int]  # bytes as they are, or (start, length) of the file


class SplicedFile(io.RawIOBase):
    """A file to be read, made of parts; wrapped by ``spliced``.

    Args:
        stream: seekable; it stays the caller's, and must not be used meanwhile.
        parts: in order.
    """

    def __init__(self, stream: BinaryIO, parts: Sequence[Part]) -> None:
        self._stream, self._parts = stream, [part for part in parts if _length(part)]
        self._ends = list(accumulate(map(_length, self._parts)))
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of files."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"a place before the start: {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As of raw files: up to the end of a part."""
        view = memoryview(buffer).cast("B")
        content = self._next(len(view))
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _next(self, wanted: int) -> bytes:
        number = bisect.bisect_right(self._ends, self._at)
        if number == len(self._parts):
            return b""
        part = self._parts[number]
        skipped = self._at - (self._ends[number] - _length(part))
        if isinstance(part, bytes):
            return part[skipped : skipped + wanted]
        start, length = part
        return read_at(self._stream, start + skipped, min(wanted, length - skipped))


def spliced(stream: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    """The parts as one buffered file."""
    return io.BufferedReader(SplicedFile(stream, parts), BLOCK)


def file_size(stream: BinaryIO) -> int:
    """Bytes of a file; its position is at the end afterwards."""
    return stream.seek(0, os.SEEK_END)


def read_at(stream: BinaryIO, start: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``start`` on."""
    stream.seek(start)
    return stream.read(length)


def blocks(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """What lies from ``start`` to ``end``, block by block; ends early where the file does."""
    while start < end and (block := read_at(stream, start, min(BLOCK, end - start))):
        yield block
        start += len(block)


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1]

"""The chunks of a PNG that its pixels need: nothing else can keep them from being read.

Texts, profiles and times are left out of what a decoder gets, whatever their size or checksum. A
wrong checksum of a chunk that pixels come from is a fault.

Source: W3C Portable Network Graphics (third edition), 5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from comics.data.orientation import AS_STORED, exif_orientation
from comics.data.spliced import Part, blocks, file_size, read_at

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER, PIXELS, END, EXIF = b"IHDR", b"IDAT", b"IEND", b"eXIf"
ANIMATION, FRAME_PIXELS = b"acTL", b"fdAT"
FRAMES = frozenset({ANIMATION, b"fcTL", FRAME_PIXELS})
TRANSPARENCY = b"tRNS"
ANCILLARY = 0x20  # the bit of a chunk's first letter
MAX_EXIF = 1 << 20  # bytes; the orientation is at the start
EMPTY_END = b"\0\0\0\0IEND\xaeB`\x82"


class PngError(ValueError):
    """A PNG whose pixels are damaged; the message says where."""


class Chunk(NamedTuple):
    """A chunk: its name, where its content starts, how long it says it is, and how long it is."""

    name: bytes
    start: int
    length: int
    there: int


@dataclass
class Png:
    """What a decoder needs of a PNG.

    Attributes:
        parts: of a whole file.
        orientation: as EXIF counts.
        frames: of its animation; 1 of a picture that does not move.
    """

    parts: list[Part] = field(default_factory=lambda: [SIGNATURE])
    orientation: int = AS_STORED
    frames: int = 1


def read_png(stream: BinaryIO, check: bool = True) -> Png:
    """Go through a PNG from chunk to chunk.

    Args:
        stream: at any place.
        check: whether to check the checksums of what pixels come from, which reads all of them.

    Raises:
        PngError: if one of them is wrong.
        OSError: if the file cannot be read.
    """
    png = Png()
    for chunk in chunks(stream):
        if chunk.name == END:
            break
        is_needed = not chunk.name[0] & ANCILLARY or chunk.name in FRAMES
        if is_needed:
            if check and chunk.there == chunk.length and not _is_sound(stream, chunk):
                name = chunk.name.decode("latin-1")
                raise PngError(f"damaged: the checksum of its chunk {name} is wrong")
            _keep(png.parts, stream, chunk)
        if chunk.name == ANIMATION and chunk.there >= 4:
            (png.frames,) = struct.unpack(">I", read_at(stream, chunk.start, 4))
        elif chunk.name == TRANSPARENCY and _is_sound(stream, chunk):
            _keep(png.parts, stream, chunk)
        elif chunk.name == EXIF and chunk.there <= MAX_EXIF and _is_sound(stream, chunk):
            png.orientation = exif_orientation(read_at(stream, chunk.start, chunk.there))
    png.parts.append(EMPTY_END)
    return png


def chunks(stream: BinaryIO) -> Iterator[Chunk]:
    """All chunks in order, also those behind the end; contents are not read."""
    at, size = len(SIGNATURE), file_size(stream)
    while len(head := read_at(stream, at, 8)) == 8:
        length, name = struct.unpack(">I4s", head)
        at += 8
        yield Chunk(name, at, length, max(0, min(length, size - at)))
        at += length + 4


def _is_sound(stream: BinaryIO, chunk: Chunk) -> bool:
    """Whether a chunk has the checksum that it states."""
    found = zlib.crc32(chunk.name)
    for block in blocks(stream, chunk.start, chunk.start + chunk.there):
        found = zlib.crc32(block, found)
    stated = read_at(stream, chunk.start + chunk.there, 4)
    # A file that ends within the checksum has the content that it is of
    return len(stated) < 4 or found == int.from_bytes(stated, "big")


def _keep(parts: list[Part], stream: BinaryIO, chunk: Chunk) -> None:
    """Add a chunk; one that is cut off as the shorter one that is there."""
    whole = chunk.there == chunk.length
    if whole and len(read_at(stream, chunk.start + chunk.length, 4)) == 4:
        start, length = chunk.start - 8, chunk.length + 12
        if isinstance(parts[-1], tuple) and sum(parts[-1]) == start:  # one part, not thousands
            start, length = parts[-1][0], parts.pop()[1] + length
        parts.append((start, length))
        return
    content = read_at(stream, chunk.start, chunk.there)
    checksum = zlib.crc32(chunk.name + content)
    parts.append(struct.pack(">I", chunk.there) + chunk.name)
    parts.append(content + struct.pack(">I", checksum))

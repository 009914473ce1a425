"""The chunks of a WebP that its pixels need, and the orientation that its EXIF states.

Source: RFC 9649, 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from comics.data.orientation import AS_STORED, exif_orientation
from comics.data.spliced import Part, file_size, read_at

EXTENDED, EXIF = b"VP8X", b"EXIF"
NEEDED = frozenset({EXTENDED, b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
PICTURES = frozenset({b"VP8 ", b"VP8L", b"ANMF"})
METADATA_FLAGS = 0x20 | 0x08 | 0x04  # of an extended header: profile, EXIF, XMP
MAX_EXIF = 1 << 20  # bytes; the orientation is at the start


@dataclass
class Webp:
    """What a decoder needs of a WebP.

    Attributes:
        parts: of a whole file.
        orientation: as EXIF counts.
        frames: pictures in it; of an animation its frames.
        is_cut: whether the file ends earlier than it says, elsewhere than within metadata.
    """

    parts: list[Part] = field(default_factory=list)
    orientation: int = AS_STORED
    frames: int = 0
    is_cut: bool = False


def read_webp(stream: BinaryIO) -> Webp:
    """Go through a WebP from chunk to chunk; pixels are not decoded.

    Raises:
        OSError: if the file cannot be read.
    """
    webp, at, size = Webp(), 12, file_size(stream)
    (stated,) = struct.unpack("<I", read_at(stream, 4, 4).ljust(4, b"\0"))
    total, name = 4, EXTENDED
    while len(head := read_at(stream, at, 8)) == 8:
        name, length = struct.unpack("<4sI", head)
        there = min(length, size - at - 8)
        if name in NEEDED:
            if name == EXTENDED and there >= 1:
                flags = read_at(stream, at + 8, 1)[0] & ~METADATA_FLAGS
                webp.parts += [head + bytes([flags]), (at + 9, there - 1)]
            else:
                webp.parts += [head, (at + 8, there)]
            webp.parts.append(bytes(there % 2))
            total += 8 + there + there % 2
            webp.frames += name in PICTURES
        elif name == EXIF and there <= MAX_EXIF:
            webp.orientation = exif_orientation(read_at(stream, at + 8, there))
        at += 8 + length + length % 2
    webp.is_cut = size < stated + 8 and name in NEEDED
    webp.parts.insert(0, b"RIFF" + struct.pack("<I", total) + b"WEBP")
    return webp

"""Where the parts of a JPEG lie, and whether its pixels are all there.

Segments that do not say how pixels are decoded (comments, profiles, thumbnails, maker's notes) are
left out of what a decoder gets, so nothing in them can keep sound pixels from being read.

A decoder fills what is missing at the end with grey, without a word. So whether pixels are
missing is seen by decoding twice, with two different endings: pixels that depend on the ending are
not in the file.

Source: ITU-T T.81, annex B; CIPA DC-007 for the multi-picture index (MPF).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from comics.data.orientation import AS_STORED, EXIF_PREFIX, exif_orientation
from comics.data.spliced import BLOCK, Part, file_size, read_at

START, END = b"\xff\xd8", b"\xff\xd9"
SOS, RESTARTS, APP0, APP1, APP2, APP14 = 0xDA, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE
# Frame headers: SOF0 to SOF15 but for DHT, JPG and DAC, which lie among them
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xCA})
# Segments a decoder needs: tables, frames, scans, restarts, line counts
NEEDED = FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD}
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
# In a scan, what is neither a stuffed byte, nor a restart, nor filling
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
COEFFICIENTS = 64
MPF, MP_ENTRIES, MP_ENTRY = b"MPF\0", 0xB002, 16
THUMBNAIL_TYPES = frozenset({0x010001, 0x010002})  # "large thumbnail" of the first picture
MAX_MPF = 1 << 16
# Entropy-coded bytes that no picture ends with: any will do that holds no marker
OTHER_ENDING = bytes((37 * n * n + 11 * n + 90) % 255 for n in range(4096))
ENDING_PART = 64  # bytes of it between two restarts


@dataclass
class Jpeg:
    """The first picture of a JPEG file.

    Attributes:
        parts: what a decoder needs, without the end marker.
        ended: whether the end marker is there.
        end: where the picture ends in the file, behind the marker if it is there.
        orientation: as EXIF counts.
        has_all_scans: whether the scans that are there name every coefficient of every component
            to its last bit; told from their headers.
        is_progressive: whether each scan only refines the picture.
        has_restarts: whether its scans can be entered at several places.
        next_restart: number, 0 to 7, of the restart that would come next in the last scan.
        others: further pictures that the multi-picture index names, thumbnails not counted.
    """

    parts: list[Part] = field(default_factory=lambda: [START])
    ended: bool = False
    end: int = 0
    orientation: int = AS_STORED
    others: int = 0
    is_progressive: bool = False
    has_restarts: bool = False
    next_restart: int = 0
    _components: set[int] = field(default_factory=set)
    _left: dict[tuple[int, int], int] = field(default_factory=dict)  # bits of (component, number)

    @property
    def has_all_scans(self) -> bool:
        """See the class."""
        if not self._components:
            return False
        numbers = range(COEFFICIENTS) if self.is_progressive else (0,)
        return all(self._left.get((c, n), 1) == 0 for c in self._components for n in numbers)

    @property
    def other_ending(self) -> bytes:
        """Bytes that show in the pixels of a picture that is cut off, and in no other.

        A decoder that waits for a restart passes over everything else, so restarts are among them.
        """
        if not self.has_restarts:
            return OTHER_ENDING
        parts = [OTHER_ENDING[at : at + ENDING_PART] for at in range(0, 2048, ENDING_PART)]
        marks = [bytes([0xFF, 0xD0 + (self.next_restart + n) % 8]) for n in range(len(parts))]
        return b"".join(part + mark for part, mark in zip(parts, marks, strict=True))

    def with_ending(self, ending: bytes = b"") -> list[Part]:
        """The parts of a whole file, with ``ending`` before its end marker."""
        return [*self.parts, ending + END]


def read_jpeg(stream: BinaryIO, scans: bool = True) -> Jpeg:
    """Go through a JPEG file from marker to marker; pixels are not decoded.

    Args:
        stream: at any place.
        scans: False: stop at the first; its header is the last part.

    Raises:
        OSError: if the file cannot be read.
    """
    jpeg, size = Jpeg(), file_size(stream)
    at = 2
    while (found := next_marker(stream, at, size)) is not None:
        place, code = found
        at = place + 2
        if code == END[1]:
            jpeg.ended, jpeg.end = True, at
            return jpeg
        if code in ALONE:
            continue
        (length,) = struct.unpack(">H", read_at(stream, at, 2).rjust(2, b"\0"))
        body = read_at(stream, at + 2, max(0, length - 2))
        at += max(2, length)
        if code in NEEDED or (code, body[:5]) in ((APP0, b"JFIF\0"), (APP14, b"Adobe")):
            jpeg.parts.append(bytes([0xFF, code, *length.to_bytes(2, "big")]) + body)
        _note_segment(jpeg, code, body)
        if code == SOS and not scans:
            break
        if code == SOS:
            start, at = at, _end_of_scan(stream, at, size)
            jpeg.parts.append((start, at - start))
            if jpeg.has_restarts:
                jpeg.next_restart = _next_restart(stream, start, at)
    jpeg.end = size
    return jpeg


def next_marker(stream: BinaryIO, at: int, size: int) -> tuple[int, int] | None:
    """(place, code) of the next marker; what lies before it, and filling, is passed over."""
    while at < size:
        block = read_at(stream, at, BLOCK)
        found = re.search(rb"\xff[^\x00\xff]", block, re.DOTALL)
        if found:
            return at + found.start(), block[found.start() + 1]
        at += max(1, len(block) - 1)  # a marker may lie across
    return None


def _end_of_scan(stream: BinaryIO, at: int, size: int) -> int:
    while at < size:
        block = read_at(stream, at, BLOCK)
        for found in MARKER.finditer(block):
            if found[0][1] in NEEDED or found[0][1] >= END[1]:
                return at + found.start()
        if at + len(block) >= size:
            break
        at += max(1, len(block) - 1)
    # Half a marker is no pixel
    return size - 1 if read_at(stream, size - 1, 1) == b"\xff" else size


def _next_restart(stream: BinaryIO, start: int, end: int) -> int:
    """What the last restart of a scan is followed by; 0 of a scan that has none yet."""
    while end > start:
        first = max(start, end - BLOCK)
        found = RESTART.findall(read_at(stream, first, end - first))
        if found:
            return (found[-1][1] - 0xD0 + 1) % 8
        end = first + 1 if first > start else start  # a marker may lie across
    return 0


def _note_segment(jpeg: Jpeg, code: int, body: bytes) -> None:
    if code in FRAMES and len(body) >= 6:
        jpeg.is_progressive = code in PROGRESSIVE
        jpeg._components = set(body[6 : 6 + 3 * body[5] : 3])
    elif code == RESTARTS and any(body):
        jpeg.has_restarts = True
    elif code == SOS and body:
        _note_scan(jpeg, body)
    elif code == APP1 and body.startswith(EXIF_PREFIX) and jpeg.orientation == AS_STORED:
        jpeg.orientation = exif_orientation(body)
    elif code == APP2 and body.startswith(MPF):
        jpeg.others = _other_pictures(body[len(MPF) :])


def _note_scan(jpeg: Jpeg, body: bytes) -> None:
    count = body[0]
    names, last = body[1 : 1 + 2 * count : 2], body[1 + 2 * count :]
    if len(last) < 3:
        return
    first, final, low_bit = last[0], last[1], last[2] & 15
    if not jpeg.is_progressive:
        first, final, low_bit = 0, 0, 0
    for name in names:
        for number in range(first, min(final, COEFFICIENTS - 1) + 1):
            jpeg._left[name, number] = low_bit


def _other_pictures(index: bytes) -> int:
    """How many pictures besides the first an index names; 0 for one that makes no sense."""
    order = {b"II": "<", b"MM": ">"}.get(index[:2])
    try:
        (start,) = struct.unpack_from(f"{order}I", index, 4)
        (count,) = struct.unpack_from(f"{order}H", index, start)
        for number in range(count):
            tag, _, size, place = struct.unpack_from(f"{order}HHII", index, start + 2 + 12 * number)
            if tag == MP_ENTRIES and size < MAX_MPF:
                kinds = [
                    struct.unpack_from(f"{order}I", index, place + MP_ENTRY * entry)[0] & 0xFFFFFF
                    for entry in range(1, size // MP_ENTRY)
                ]
                return sum(kind not in THUMBNAIL_TYPES for kind in kinds)
    except struct.error:
        pass
    return 0

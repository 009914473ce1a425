"""A few fields of an EXIF block: who made a picture, with what, when; whether it says where.

Four directories are looked at (the picture's, the one for cameras, the one for positions, the
thumbnail's), each once, each up to ``MAX_ENTRIES``: a block that names itself, or counts millions
of entries, ends like any other.

Source: CIPA DC-008 (Exif 3.0), 4.6; Adobe, TIFF revision 6.0, section 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from comics.data.custody.texts import MAX_TEXT, decoded, plain_text
from comics.data.orientation import AS_STORED, EXIF_PREFIX, exif_orientation

# (start, length) -> up to so many bytes of the block
Reader = Callable[[int, int], bytes]

MAX_ENTRIES = 512  # of a directory
MAX_THUMBNAIL = 1 << 20  # bytes; EXIF in a JPEG is 64 KiB at most, all in all
MAGIC = 42
ENTRY = 12
ASCII, SHORT, LONG, UTF8 = 2, 3, 4, 129  # types of a field
BYTES_OF = {1: 1, ASCII: 1, SHORT: 2, LONG: 4, 5: 8, 6: 1, 7: 1, 9: 4, 10: 8, UTF8: 1}
CAMERA_DIRECTORY, POSITION_DIRECTORY = 0x8769, 0x8825
MAKE, MODEL, SOFTWARE, PROCESSING, CHANGED = 0x010F, 0x0110, 0x0131, 0x000B, 0x0132
TAKEN, DIGITISED = 0x9003, 0x9004
OFFSETS = {CHANGED: 0x9010, TAKEN: 0x9011, DIGITISED: 0x9012}  # of the times from UTC
LATITUDE, LONGITUDE = 2, 4
THUMBNAIL_START, THUMBNAIL_LENGTH = 0x0201, 0x0202
XMP = 0x02BC


@dataclass(frozen=True)
class Exif:
    """What an EXIF block says; texts as they are written there.

    Attributes:
        make, model: of the camera.
        software: programs that it names.
        times: ``exif_taken``, ``exif_digitised``, ``exif_changed``, with their offset from UTC
            where one stands beside them.
        has_position: whether it has a latitude and a longitude.
        thumbnail: the small JPEG in it, or what is there of it; None without one.
        orientation: 1 to 8.
    """

    make: str | None = None
    model: str | None = None
    software: tuple[str, ...] = ()
    times: dict[str, str] = field(default_factory=dict)
    has_position: bool = False
    thumbnail: bytes | None = None
    orientation: int = AS_STORED


@dataclass(frozen=True)
class _Field:
    """An entry of a directory: its type, how many values, and where they are in the block."""

    kind: int
    count: int
    place: int

    @property
    def size(self) -> int:
        """Bytes that it says to have."""
        return self.count * BYTES_OF.get(self.kind, 1)


class _Head(NamedTuple):
    """The start of a block: its byte order, as ``struct`` writes it, and its first directory."""

    order: str
    magic: int
    start: int


def read_exif(block: bytes) -> Exif:
    """Of a block, with or without the six bytes "Exif" that JPEG puts in front.

    What makes no sense is left out; no block is an error.
    """
    block = block.removeprefix(EXIF_PREFIX)
    orientation = exif_orientation(block)
    return read_directories(lambda start, length: block[start : start + length], orientation)


def read_directories(read: Reader, orientation: int = AS_STORED) -> Exif:
    """The same of what ``read`` gives, which may be a whole TIFF file."""
    head = _head(read)
    if head is None or head.magic != MAGIC:
        return Exif()
    order = head.order
    main, following = _directory(read, head.start, order)
    camera = _below(read, main, CAMERA_DIRECTORY, order)
    position = _below(read, main, POSITION_DIRECTORY, order)
    small, _ = _directory(read, following, order)
    fields = camera | main

    def text(tag: int) -> str | None:
        return _text(read, fields.get(tag))

    times = {}
    for name, tag in (("taken", TAKEN), ("digitised", DIGITISED), ("changed", CHANGED)):
        if (time := text(tag)) is not None:
            offset = text(OFFSETS[tag])
            times[f"exif_{name}"] = time if offset is None else f"{time} {offset}"
    return Exif(
        make=text(MAKE),
        model=text(MODEL),
        software=tuple(filter(None, (text(SOFTWARE), text(PROCESSING)))),
        times=times,
        has_position={LATITUDE, LONGITUDE} <= position.keys(),
        thumbnail=_thumbnail(read, small, order),
        orientation=orientation,
    )


def field_content(read: Reader, tag: int, limit: int) -> bytes | None:
    """The bytes of a field of the first directory, such as ``XMP`` of a TIFF; None without it.

    Args:
        read: of the block.
        tag: of the field.
        limit: a longer one is taken to be absent.
    """
    found = _field_of_first(read, tag)
    return None if found is None or not 0 < found.size <= limit else read(found.place, found.size)


def field_size(read: Reader, tag: int) -> int:
    """How many bytes a field of the first directory says that it has; 0 without it."""
    found = _field_of_first(read, tag)
    return 0 if found is None else found.size


def _field_of_first(read: Reader, tag: int) -> _Field | None:
    """A field of the first directory, whatever the block's magic number."""
    head = _head(read)
    return None if head is None else _directory(read, head.start, head.order)[0].get(tag)


def _head(read: Reader) -> _Head | None:
    """How a block begins; None if it is none."""
    head = read(0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return None
    return _Head(order, *struct.unpack(f"{order}HI", head[2:]))


def _directory(read: Reader, start: int, order: str) -> tuple[dict[int, _Field], int]:
    """Tag -> field, and the place of the next directory (0: none)."""
    head = read(start, 2) if start else b""
    if len(head) < 2:
        return {}, 0
    (count,) = struct.unpack(f"{order}H", head)
    content = read(start + 2, min(count, MAX_ENTRIES) * ENTRY)
    fields: dict[int, _Field] = {}
    for at in range(0, len(content) - ENTRY + 1, ENTRY):
        tag, kind, amount = struct.unpack_from(f"{order}HHI", content, at)
        place = start + 2 + at + 8
        if amount * BYTES_OF.get(kind, 1) > 4:
            (place,) = struct.unpack_from(f"{order}I", content, at + 8)
        fields.setdefault(tag, _Field(kind, amount, place))
    following = read(start + 2 + count * ENTRY, 4)
    return fields, struct.unpack(f"{order}I", following)[0] if len(following) == 4 else 0


def _below(read: Reader, fields: dict[int, _Field], tag: int, order: str) -> dict[int, _Field]:
    """The directory that a field names."""
    place = _number(read, fields.get(tag), order)
    return {} if place is None else _directory(read, place, order)[0]


def _number(read: Reader, found: _Field | None, order: str) -> int | None:
    if found is None or found.count < 1 or found.kind not in (SHORT, LONG):
        return None
    form = "H" if found.kind == SHORT else "I"
    content = read(found.place, struct.calcsize(form))
    return (
        struct.unpack(order + form, content)[0] if len(content) == struct.calcsize(form) else None
    )


def _text(read: Reader, found: _Field | None) -> str | None:
    if found is None or found.kind not in (ASCII, UTF8):
        return None
    content = read(found.place, min(found.count, 4 * (MAX_TEXT + 1)))  # UTF-8: up to four a letter
    return plain_text(decoded(content.split(b"\0")[0]))


def _thumbnail(read: Reader, fields: dict[int, _Field], order: str) -> bytes | None:
    start = _number(read, fields.get(THUMBNAIL_START), order)
    length = _number(read, fields.get(THUMBNAIL_LENGTH), order)
    if not start or not length or length > MAX_THUMBNAIL:
        return None
    return read(start, length)

"""The pages of a TIFF: which one is the picture, and what range its values have.

Cameras and scanners put a thumbnail first; documents have many pages; pyramids hold the same
picture in many sizes. What a page says of itself (TIFF 6.0, sections 3 and 8; NewSubfileType) tells
them apart.

Source: Adobe, TIFF revision 6.0; Adobe, Digital Negative 1.7 for raw pictures; BigTIFF design.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from comics.data.spliced import Part, file_size, read_at

MAX_PAGES = 4096  # that are looked for; a chain may run in a circle, or through a whole book
MAX_ENTRIES, MAX_VALUES = 4096, 64
REDUCED, MASK = 1, 4  # bits of NewSubfileType
OLD_REDUCED = 2  # SubfileType
NEW_SUBFILE, SUBFILE, WIDTH, HEIGHT, BITS = 254, 255, 256, 257, 258
COMPRESSION, PHOTOMETRIC, ORIENTATION = 259, 262, 274
SAMPLES, SUB_PAGES, SAMPLE_FORMAT = 277, 330, 339
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
RAW = {32803: "camera raw data", 34892: "camera raw data"}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
SIZES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # bytes of a value of a type of whole numbers
SAME_SHAPE = 0.03  # relative; a thumbnail's sides are rounded
THUMBNAIL = 2.0  # a first page so many times smaller than a later one of its shape is one


@dataclass(frozen=True)
class Page:
    """A page, or a picture below a page.

    Attributes:
        place: of its directory in the file.
        number: among the pages, from 0; None of a picture below a page.
        width, height: as stored.
        kind: NewSubfileType: bit 0 a reduced picture, bit 2 a mask.
        bits: per sample.
        compression: its number; 1: none.
        orientation: as EXIF counts.
        photometric: PhotometricInterpretation; 0: white is zero.
        samples: per pixel.
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        photometric_place: of the photometric value in the file.
    """

    place: int
    number: int | None
    width: int
    height: int
    kind: int
    bits: int
    compression: int
    orientation: int
    photometric: int
    samples: int
    sample_format: int
    photometric_place: int

    @property
    def is_picture(self) -> bool:
        """Whether it is neither a smaller version of another nor a mask."""
        return not self.kind & (REDUCED | MASK)

    @property
    def size(self) -> str:
        """For people."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Tiff:
    """A TIFF's layout.

    Attributes:
        order: "<" or ">".
        is_big: whether it is a BigTIFF.
        pages: in their order.
        below: pictures below pages, such as the raw picture of a camera.
    """

    order: str
    is_big: bool
    pages: Sequence[Page]
    below: Sequence[Page]

    def chosen(self) -> Page | None:
        """The page to look at: the first that is a picture of its own, and no thumbnail."""
        pictures = [page for page in self.pages if page.is_picture] or list(self.pages)
        if not pictures:
            return None
        first = pictures[0]
        if self.pages[0].is_picture:
            return next((page for page in pictures if _is_thumbnail_of(first, page)), first)
        return first

    def parts(self, page: Page, white_is_zero: bool) -> list[Part]:
        """A whole file whose first page is ``page``.

        Args:
            page: one of this file.
            white_is_zero: False: its values are to be given as they are stored.
        """
        start = 16 if self.is_big else 8
        place = struct.pack(self.order + ("Q" if self.is_big else "I"), page.place)
        header: list[Part] = [(0, start // 2), place]
        if white_is_zero or page.photometric != WHITE_IS_ZERO:
            return [*header, (start, 1 << 62)]
        at = page.photometric_place
        return [
            *header,
            (start, at - start),
            struct.pack(self.order + "H", BLACK_IS_ZERO),
            (at + 2, 1 << 62),
        ]


def read_tiff(stream: BinaryIO) -> Tiff | None:
    """Go through the directories of a TIFF; None if its header makes no sense.

    Raises:
        OSError: if the file cannot be read.
    """
    size = file_size(stream)
    head = read_at(stream, 0, 16).ljust(16, b"\0")
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    is_big = struct.unpack_from(order + "H", head, 2)[0] == 43
    (place,) = struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)
    pages: list[Page] = []
    below: list[Page] = []
    seen: set[int] = set()
    while 0 < place < size and place not in seen and len(pages) < MAX_PAGES:
        seen.add(place)
        fields, following = _directory(stream, place, order, is_big)
        pages.append(_page(fields, place, len(pages)))
        for sub_place in fields.get(SUB_PAGES, ((), 0))[0]:
            if 0 < sub_place < size and sub_place not in seen and len(below) < MAX_PAGES:
                seen.add(sub_place)
                below.append(
                    _page(_directory(stream, sub_place, order, is_big)[0], sub_place, None)
                )
        place = following
    return Tiff(order, is_big, pages, below)


def _is_thumbnail_of(first: Page, page: Page) -> bool:
    if not all((first.width, first.height, page.width, page.height)):
        return False
    across, down = page.width / first.width, page.height / first.height
    return min(across, down) >= THUMBNAIL and abs(across / down - 1) <= SAME_SHAPE


def _page(fields: dict, place: int, number: int | None) -> Page:
    def first(tag: int, missing: int) -> int:
        values = fields.get(tag, ((), 0))[0]
        return values[0] if values else missing

    kind = first(NEW_SUBFILE, 0) or (first(SUBFILE, 0) == OLD_REDUCED) * REDUCED
    return Page(
        place=place,
        number=number,
        width=first(WIDTH, 0),
        height=first(HEIGHT, 0),
        kind=kind,
        bits=first(BITS, 1),
        compression=first(COMPRESSION, 1),
        orientation=first(ORIENTATION, 1) if 1 <= first(ORIENTATION, 1) <= 8 else 1,
        photometric=first(PHOTOMETRIC, -1),
        samples=first(SAMPLES, 1),
        sample_format=first(SAMPLE_FORMAT, UNSIGNED),
        photometric_place=fields.get(PHOTOMETRIC, ((), 0))[1],
    )


def _directory(
    stream: BinaryIO, place: int, order: str, is_big: bool
) -> tuple[dict[int, tuple[tuple[int, ...], int]], int]:
    """Tag -> (its whole numbers, their place in the file), and the place of the next directory."""
    count_form, entry_form, entry_size = ("Q", "HHQ", 20) if is_big else ("H", "HHI", 12)
    inline = 8 if is_big else 4
    head = struct.calcsize(order + count_form)
    content = read_at(stream, place, head + MAX_ENTRIES * entry_size + inline)
    fields = {}
    try:
        (count,) = struct.unpack_from(order + count_form, content)
        if count > MAX_ENTRIES:
            return {}, 0
        for number in range(count):
            at = head + number * entry_size
            tag, kind, amount = struct.unpack_from(order + entry_form, content, at)
            at += entry_size - inline
            size = SIZES.get(kind, 0) * min(amount, MAX_VALUES)
            value_place, values = place + at, content[at : at + size]
            if size > inline:
                (value_place,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, at)
                values = read_at(stream, value_place, size)
            if size and len(values) == size:
                form = {1: "B", 2: "H", 4: "I", 8: "Q"}[SIZES[kind]]
                numbers = struct.unpack(f"{order}{size // SIZES[kind]}{form}", values)
                fields[tag] = (numbers, value_place)
        (following,) = struct.unpack_from(
            order + ("Q" if is_big else "I"), content, head + count * entry_size
        )
    except struct.error:  # cut off: what is there counts
        return fields, 0
    return fields, following

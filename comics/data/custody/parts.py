"""Where a file keeps EXIF, XMP and C2PA manifests, found without decoding anything.

Of each only the first is taken, of bounded size; a file of millions of parts is looked at up to
``MAX_PARTS`` of them.

Source: CIPA DC-008 and ISO 16684-3 (JPEG, PNG, WebP, TIFF); ISO/IEC 14496-12, 4.2; C2PA 2.1,
annex A (where each format holds a manifest).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

from comics.data.custody.exif import XMP as XMP_FIELD
from comics.data.custody.exif import Exif, field_content, field_size, read_directories, read_exif
from comics.data.custody.texts import decoded, plain_text
from comics.data.custody.xmp import Xmp, read_xmp
from comics.data.file_kinds import HEAD, picture_format
from comics.data.jpeg_structure import ALONE, APP1, END, SOS, next_marker
from comics.data.orientation import EXIF_PREFIX
from comics.data.png_structure import END as PNG_END
from comics.data.png_structure import EXIF as PNG_EXIF
from comics.data.png_structure import Chunk, chunks
from comics.data.spliced import file_size, read_at
from comics.data.webp_structure import EXIF as RIFF_EXIF

MAX_PARTS = 20_000  # segments, chunks or boxes
MAX_EXIF, MAX_XMP = 1 << 20, 1 << 20  # bytes
APP11, JUMBF = 0xEB, b"JP"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP, PNG_SOFTWARE = b"XML:com.adobe.xmp", b"Software"
PNG_TEXT, PNG_UNICODE, PNG_MANIFEST = b"tEXt", b"iTXt", b"caBX"
RIFF_XMP, RIFF_MANIFEST = b"XMP ", b"C2PA"
TIFF_MANIFEST = 0xCD41
BOX_MANIFEST = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
BOX_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
LABEL, LABEL_WITHIN = b"c2pa", 64  # of a manifest store's own description, at its start


@dataclass
class MetadataParts:
    """What lies where in a file.

    Attributes:
        exif: of its EXIF block.
        xmp: its packet.
        software: programs that it names elsewhere.
        manifest_bytes: of its C2PA manifests; 0: none; None: not looked for in such a file.
        left_out: what was too large to be read, for people.
    """

    exif: Exif | None = None
    xmp: bytes | None = None
    software: tuple[str, ...] = ()
    manifest_bytes: int | None = 0
    left_out: list[str] = field(default_factory=list)

    @cached_property
    def told_by_xmp(self) -> Xmp:
        """What its packet says; to be asked once all parts are known."""
        return Xmp() if self.xmp is None else read_xmp(self.xmp)

    def take_exif(self, block: bytes | None, size: int | None = None) -> None:
        """Note the first block; ``size``: of one that was too large to be read."""
        if block is None:
            self.left_out.append(f"EXIF of {size} bytes was not read")
        elif self.exif is None:
            self.exif = read_exif(block)

    def take_xmp(self, packet: bytes | None, size: int | None = None) -> None:
        """The same of a packet."""
        if packet is None:
            self.left_out.append(f"XMP of {size} bytes was not read")
        elif self.xmp is None:
            self.xmp = packet


def find_parts(stream: BinaryIO) -> MetadataParts:
    """Of a file, by its content.

    Raises:
        OSError: if the file cannot be read.
    """
    head = read_at(stream, 0, HEAD)
    form = picture_format(head)
    parts = MetadataParts()
    if form == "JPEG":
        _of_jpeg(stream, parts)
    elif form == "PNG":
        _of_png(stream, parts)
    elif form == "TIFF":
        _of_tiff(stream, parts)
    elif head[:4] == b"RIFF":
        _of_riff(stream, parts)
    elif head[4:8] == b"ftyp":
        _of_boxes(stream, parts)
    else:
        parts.manifest_bytes = None
    return parts


def _segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(code, body) of the segments before the first scan."""
    at, size = 2, file_size(stream)
    while at < size:
        head = read_at(stream, at, 2)
        if len(head) < 2 or head[0] != 0xFF or head[1] in (0, 0xFF):
            # Filling, or what belongs to nothing: looked for block by block, which takes longer
            found = next_marker(stream, at, size)
            if found is None:
                return
            at, head = found[0], bytes((0xFF, found[1]))
        code = head[1]
        at += 2
        if code in ALONE:
            continue
        if code in (SOS, END[1]):
            return
        (length,) = struct.unpack(">H", read_at(stream, at, 2).rjust(2, b"\0"))
        yield code, read_at(stream, at + 2, max(0, length - 2))
        at += max(2, length)


def _of_jpeg(stream: BinaryIO, parts: MetadataParts) -> None:
    manifests: set[bytes] = set()  # numbers of boxes that are manifests; each has many segments
    total = 0
    for code, body in itertools.islice(_segments(stream), MAX_PARTS):
        if code == APP1 and body.startswith(EXIF_PREFIX):
            parts.take_exif(body)
        elif code == APP1 and body.startswith(JPEG_XMP):
            parts.take_xmp(body.removeprefix(JPEG_XMP))
        elif code == APP11 and body.startswith(JUMBF):
            number = body[2:4]
            if LABEL in body[: LABEL_WITHIN + 16]:
                manifests.add(number)
            total += len(body) if number in manifests else 0
    parts.manifest_bytes = total


def _of_png(stream: BinaryIO, parts: MetadataParts) -> None:
    total = 0
    for chunk in itertools.islice(chunks(stream), MAX_PARTS):
        if chunk.name == PNG_END:
            break
        if chunk.name == PNG_MANIFEST:
            total += chunk.length
        elif chunk.name == PNG_EXIF:
            parts.take_exif(_content(stream, chunk, MAX_EXIF), chunk.length)
        elif chunk.name == PNG_UNICODE and _keyword(stream, chunk) == PNG_XMP:
            content = _content(stream, chunk, MAX_XMP)
            parts.take_xmp(None if content is None else _unicode_text(content), chunk.length)
        elif chunk.name == PNG_TEXT and _keyword(stream, chunk) == PNG_SOFTWARE:
            text = plain_text(decoded(read_at(stream, chunk.start, 1024)[len(PNG_SOFTWARE) + 1 :]))
            parts.software += () if text is None else (text,)
    parts.manifest_bytes = total


def _content(stream: BinaryIO, chunk: Chunk, limit: int) -> bytes | None:
    return read_at(stream, chunk.start, chunk.there) if chunk.there <= limit else None


def _keyword(stream: BinaryIO, chunk: Chunk) -> bytes:
    return read_at(stream, chunk.start, min(chunk.there, 80)).partition(b"\0")[0]


def _unicode_text(content: bytes) -> bytes:
    """The text of an iTXt chunk; of a compressed one up to ``MAX_XMP`` bytes."""
    rest = content.partition(b"\0")[2]
    flags, rest = rest[:2], rest[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]  # behind language and translated keyword
    if flags[:1] != b"\1":
        return text
    try:
        return zlib.decompressobj().decompress(text, MAX_XMP)
    except zlib.error:
        return b""


def _of_riff(stream: BinaryIO, parts: MetadataParts) -> None:
    at, total = 12, 0
    for _ in range(MAX_PARTS):
        head = read_at(stream, at, 8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        if name == RIFF_MANIFEST:
            total += length
        elif name == RIFF_EXIF:
            small = length <= MAX_EXIF
            parts.take_exif(read_at(stream, at + 8, length) if small else None, length)
        elif name == RIFF_XMP:
            small = length <= MAX_XMP
            parts.take_xmp(read_at(stream, at + 8, length) if small else None, length)
        at += 8 + length + length % 2
    parts.manifest_bytes = total


def _of_tiff(stream: BinaryIO, parts: MetadataParts) -> None:
    def read(start: int, length: int) -> bytes:
        return read_at(stream, start, length)

    parts.exif = read_directories(read)
    parts.xmp = field_content(read, XMP_FIELD, MAX_XMP)
    if parts.xmp is None and (size := field_size(read, XMP_FIELD)):
        parts.take_xmp(None, size)
    parts.manifest_bytes = field_size(read, TIFF_MANIFEST)


def _of_boxes(stream: BinaryIO, parts: MetadataParts) -> None:
    """Of HEIF, AVIF, MP4, QuickTime: their outermost boxes. EXIF lies deeper, see ``metadata``."""
    at, end, total = 0, file_size(stream), 0
    for _ in range(MAX_PARTS):
        head = read_at(stream, at, 32)
        if len(head) < 8:
            break
        size, name, start = struct.unpack_from(">I", head)[0], head[4:8], 8
        if size == 1 and len(head) >= 16:
            (size,), start = struct.unpack_from(">Q", head, 8), 16
        size = end - at if size == 0 else size
        if size < start:
            break
        if name == b"uuid":
            kind, length = head[start : start + 16], size - start - 16
            if kind == BOX_MANIFEST:
                total += length
            elif kind == BOX_XMP:
                small = length <= MAX_XMP
                packet = read_at(stream, at + start + 16, length) if small else None
                parts.take_xmp(packet, length)
        at += size
    parts.manifest_bytes = total

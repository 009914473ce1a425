"""How long an animated picture is, from its structure: no pixel is decoded.

A file of a few megabytes may have hundreds of thousands of frames, each of which takes time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from comics.data.file_kinds import HEAD, picture_format
from comics.data.png_structure import SIGNATURE
from comics.data.spliced import read_at
from comics.data.video_files import open_container

DEFAULT_MS = 100  # of a frame for which the file says 0, as browsers show it
GIF_EXTENSION, GIF_IMAGE, GIF_CONTROL = 0x21, 0x2C, 0xF9


class Length(NamedTuple):
    """Frames, and the seconds for which they are shown."""

    frames: int
    seconds: float


def animation_length(path: str | os.PathLike, limit_s: float | None = None) -> Length:
    """The length of a GIF, PNG, WebP or AVIF; (1, 0) of what is none or does not move.

    Args:
        path: of the file.
        limit_s: how far to count; what is longer is at least that long.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb", buffering=1 << 20) as stream:
        form = picture_format(read_at(stream, 0, HEAD))
        if form == "AVIF":
            return _avif_length(stream)
        durations = READERS.get(form or "")
        if durations is None:
            return Length(1, 0.0)
        frames, total_ms = 0, 0
        for duration in durations(stream):
            frames, total_ms = frames + 1, total_ms + (duration or DEFAULT_MS)
            if limit_s is not None and total_ms > 1000 * limit_s:
                break
    return Length(frames, total_ms / 1000) if frames > 1 else Length(1, 0.0)


def moves(stream: BinaryIO, form: str) -> bool:
    """Whether a GIF, PNG or WebP has a second frame; no more of the file is read than shows it."""
    return len(list(islice(READERS[form](stream), 2))) > 1


def _gif_durations(stream: BinaryIO) -> Iterator[int]:
    """Milliseconds of each frame; ends where the file stops making sense."""
    stream.seek(10)
    (packed,) = stream.read(1) or b"\0"
    stream.seek(13 + (3 << (packed & 7) + 1 if packed & 0x80 else 0))
    duration = 0
    while block := stream.read(1):
        if block[0] == GIF_EXTENSION:
            label = stream.read(1)
            content = _sub_blocks(stream)
            if label and label[0] == GIF_CONTROL and len(content) >= 3:
                duration = 10 * struct.unpack_from("<H", content, 1)[0]
        elif block[0] == GIF_IMAGE:
            head = stream.read(9)
            if len(head) < 9:
                return
            stream.seek((3 << (head[8] & 7) + 1 if head[8] & 0x80 else 0) + 1, os.SEEK_CUR)
            _sub_blocks(stream)
            yield duration
            duration = 0
        else:
            return


def _sub_blocks(stream: BinaryIO) -> bytes:
    """The first of a chain of blocks; the others are passed over."""
    first = None
    while (size := stream.read(1)) and size[0]:
        if first is None:
            first = stream.read(size[0])
        else:
            stream.seek(size[0], os.SEEK_CUR)
    return first or b""


def _png_durations(stream: BinaryIO) -> Iterator[int]:
    at = len(SIGNATURE)
    while len(head := read_at(stream, at, 8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"fcTL" and len(content := stream.read(24)) == 24:
            numerator, denominator = struct.unpack_from(">HH", content, 20)
            yield round(1000 * numerator / (denominator or 100))
        at += length + 12


def _webp_durations(stream: BinaryIO) -> Iterator[int]:
    at = 12
    while len(head := read_at(stream, at, 8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"ANMF" and len(content := stream.read(16)) == 16:
            yield int.from_bytes(content[12:15], "little")
        at += 8 + length + length % 2


READERS = {"GIF": _gif_durations, "PNG": _png_durations, "WEBP": _webp_durations}


def _avif_length(stream: BinaryIO) -> Length:
    """By FFmpeg: a sequence in AVIF is a track of an MP4."""
    stream.seek(0)
    try:
        with open_container(stream) as container:
            for track in container.streams.video:
                if track.duration and track.time_base:
                    return Length(max(1, track.frames), float(track.duration * track.time_base))
    except (ValueError, OSError):  # FFmpeg's errors are both or either
        pass
    return Length(1, 0.0)

"""What of a picture's file is not looked at: further pages or pictures, a video behind it.

A verdict on one picture is none on the file, so a run says what it left out.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from comics.data.file_kinds import HEAD, picture_format
from comics.data.image_headers import open_image
from comics.data.jpeg_structure import read_jpeg
from comics.data.spliced import blocks, file_size, read_at
from comics.data.tiff_structure import read_tiff

VIDEO_MARK = b"ftyp"  # the first box of the video that phones put behind a photo
VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"qt  ", b"M4V ", b"avc1", b"3gp")


def parts_left_out(path: str | os.PathLike) -> str | None:
    """What ``comics.data.images.read_image`` does not look at, for people; None if nothing.

    Only headers are read. Of a file that cannot be read it is nothing: the reader says why.
    """
    try:
        with open(path, "rb") as stream:
            form = picture_format(read_at(stream, 0, HEAD))
            if form == "JPEG":
                return _beside_jpeg(stream)
            if form == "TIFF":
                return _other_pages(stream)
            if form == "HEIF":
                with open_image(stream, path, whole=False) as opened:
                    return _first_of(getattr(opened.image, "n_frames", 1))
    except Exception:  # of any kind: this is a remark beside the reader's own result
        pass
    return None


def _beside_jpeg(stream: BinaryIO) -> str | None:
    jpeg = read_jpeg(stream)
    left = [_first_of(jpeg.others + 1)]
    if jpeg.ended and _holds_video(stream, jpeg.end):
        left.append("a video behind the picture was not looked at")
    return "; ".join(filter(None, left)) or None


def _other_pages(stream: BinaryIO) -> str | None:
    tiff = read_tiff(stream)
    chosen = None if tiff is None else tiff.chosen()
    if tiff is None or chosen is None:
        return None
    others = [page for page in tiff.pages if page.is_picture and page != chosen]
    if not others:
        return None
    sizes = {page.size for page in others}
    shown = sizes.pop() if len(sizes) == 1 else "several sizes"
    return (
        f"looked at page {(chosen.number or 0) + 1} ({chosen.size}) only; not at "
        f"{len(others)} other page{'s' if len(others) > 1 else ''} ({shown})"
    )


def _first_of(count: int) -> str | None:
    return f"looked at the first of {count} pictures in it only" if count > 1 else None


def _holds_video(stream: BinaryIO, start: int) -> bool:
    before = b""
    for block in blocks(stream, start, file_size(stream)):
        text = before + block
        at = text.find(VIDEO_MARK)
        while at >= 0:
            if text[at + 4 : at + 8].startswith(VIDEO_BRANDS):
                return True
            at = text.find(VIDEO_MARK, at + 1)
        before = text[-8:]
    return False

"""Whether a file is a picture, an animation or a video: by its content.

Its name decides only where the content says nothing: so a broken file fails as what its name
promises.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from comics.data.animation_length import READERS, moves
from comics.data.file_kinds import (
    ANIMATION,
    HEAD,
    PICTURE,
    VIDEO,
    is_text,
    picture_format,
    read_head,
    unread_format,
)
from comics.data.image_headers import open_image
from comics.data.jpeg_structure import read_jpeg
from comics.data.spliced import read_at
from comics.data.video_files import has_moving_pictures

IMAGE_EXTENSIONS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".apng", ".bmp", ".dib", ".webp", ".tif",
        ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c",
        ".tga", ".mpo", ".avif", ".avifs", ".heic", ".heif", ".hif",
    )
)  # fmt: skip
VIDEO_EXTENSIONS = frozenset(
    (
        ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mpe",
        ".mpv", ".m1v", ".m2v", ".ts", ".m2t", ".m2ts", ".mts", ".mxf", ".3gp", ".3g2", ".3gpp",
        ".flv", ".f4v", ".wmv", ".asf", ".ogv", ".vob", ".divx", ".dv", ".rm", ".rmvb", ".nut",
        ".ivf", ".obu", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".vvc",
        ".mjpeg", ".mjpg", ".y4m",
    )
)  # fmt: skip
MOTION_JPEG = frozenset((".mjpeg", ".mjpg"))
Y4M = b"YUV4MPEG2"  # the one video that begins as a text


def content_kind(path: str | os.PathLike, named: bool = True) -> str | None:
    """ "picture", "animation" (which Pillow reads) or "video" (which FFmpeg reads).

    Args:
        path: of a file.
        named: whether a file whose content says nothing is what its name says; False: it is None.

    Returns:
        None of a file that is none of them. One that cannot be read is what its name says, a
        picture if that says nothing: whoever opens it says why.
    """
    suffix = Path(path).suffix.lower()
    by_name: str | None = VIDEO if suffix in VIDEO_EXTENSIONS else PICTURE
    if not named and suffix not in VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        by_name = None
    try:
        head = read_head(path)
    except (OSError, ValueError):
        return by_name or PICTURE
    form = picture_format(head)
    if form is not None:
        return _picture_kind(path, form)
    if unread_format(head):
        return PICTURE
    if not head or (is_text(head) and not head.startswith(Y4M)):
        return by_name
    if by_name == VIDEO:
        return VIDEO
    try:
        return VIDEO if has_moving_pictures(path) else by_name
    except OSError:
        return by_name


def _picture_kind(path: str | os.PathLike, form: str) -> str:
    try:
        with open(path, "rb") as stream:
            if form == "JPEG":
                return VIDEO if _is_motion_jpeg(stream, path) else PICTURE
            if form in READERS:
                return ANIMATION if moves(stream, form) else PICTURE
            if form == "AVIF":
                with open_image(stream, path, whole=False) as opened:
                    return ANIMATION if getattr(opened.image, "is_animated", False) else PICTURE
    # Pillow meets broken files in many ways; the reader of images says how
    except Exception:
        pass
    return PICTURE


def _is_motion_jpeg(stream: BinaryIO, path: str | os.PathLike) -> bool:
    """Whether JPEG follows on JPEG without an index: what cameras stream."""
    if Path(path).suffix.lower() in MOTION_JPEG:
        return True
    jpeg = read_jpeg(stream)
    if not jpeg.ended or jpeg.others:
        return False
    return read_at(stream, jpeg.end, HEAD).startswith(b"\xff\xd8\xff")

"""What a file is, by its content; its name only where the content says nothing.

A name is no evidence: pictures are sent as videos, videos as GIF, and files come without an ending.
"""

from __future__ import annotations

import os
import struct
from pathlib import PurePath

PICTURE, ANIMATION, VIDEO = "picture", "animation", "video"
HEAD = 4096  # bytes of a file that are looked at first

# Names of formats as Pillow has them
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
# Pictures that are recognised but not read, and what people call them
UNREAD: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"II\xbc", "JPEG XR"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"qoif", "QOI"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
)
PORTABLE = b"123456fF"  # the second letter of PPM and its kin
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf"))
GENERAL_BRANDS = frozenset((b"mif1", b"mif2", b"miaf", b"msf1"))  # of either kind
AVIF_BRANDS = frozenset((b"avif", b"avis"))
# Systems put these beside files; none is a picture of its own
SIDE_FILES = frozenset(
    (".ds_store", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db",
     "desktop.ini", ".localized", ".directory", "icon\r", ".picasa.ini", "picasa.ini", ".nomedia")
)  # fmt: skip
SIDE_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information",
     ".appledouble", ".appledb", ".appledesktop", ".spotlight-v100", ".fseventsd",
     ".temporaryitems", ".trashes", ".documentrevisions-v100", ".synologyworkingdirectory")
)  # fmt: skip
RESOURCE_FORK = "._"  # how macOS names what a file system cannot hold of a file


def is_side_file(name: str) -> bool:
    """Whether an operating system keeps a file of that name for itself."""
    return name.startswith(RESOURCE_FORK) or name.casefold() in SIDE_FILES


def is_side_folder(name: str) -> bool:
    """The same of a folder."""
    return name.casefold() in SIDE_FOLDERS


def is_beside(path: str | os.PathLike) -> bool:
    """Whether a path's last part is a side file, or any folder on its way a side folder."""
    path = PurePath(path)
    return is_side_file(path.name) or any(map(is_side_folder, path.parts))


def picture_format(head: bytes) -> str | None:
    """Name of the picture format that a file begins as, in Pillow's words; None if it is none.

    Args:
        head: the first bytes of the file, ``HEAD`` of them where there are as many.
    """
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:1] == b"P" and head[1:2] in map(bytes, zip(PORTABLE)) and head[2:3].isspace():
        return "PPM"
    return _boxed_format(head)


def unread_format(head: bytes) -> str | None:
    """What people call a picture format that is recognised but not read; None if it is none."""
    return next((name for signature, name in UNREAD if head.startswith(signature)), None)


def _boxed_format(head: bytes) -> str | None:
    """AVIF or HEIF, by the brands of the first box."""
    if head[4:8] != b"ftyp":
        return None
    (size,) = struct.unpack(">I", head[:4])
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, min(size, len(head) - 3), 4))}
    if major in AVIF_BRANDS or (major in GENERAL_BRANDS and brands & AVIF_BRANDS):
        return "AVIF"
    # A sequence in HEVC ("hevc", "msf1") is a video, which FFmpeg reads
    return "HEIF" if major in HEIF_BRANDS else None


def read_head(path: str | os.PathLike) -> bytes:
    """The first bytes of a file.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(HEAD)


def is_text(head: bytes) -> bool:
    """Whether a file begins as text does: no zero byte, and valid UTF-8 but for its cut end."""
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) >= HEAD
    return True

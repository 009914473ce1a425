"""The facts of a file that hold a result together: which bytes it is about, and their origin."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import numpy as np

from comics.data.custody.credentials import ContentCredentials, CredentialsReader
from comics.data.custody.metadata import (
    PictureMetadata,
    add_inner_metadata,
    picture_metadata,
)
from comics.data.custody.parts import find_parts
from comics.data.custody.thumbnail import Thumbnail
from comics.data.file_kinds import HEAD, picture_format
from comics.data.spliced import read_at

UNKNOWN_TYPE = "application/octet-stream"
PICTURE_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "JPEG2000": "image/jp2",
    "WEBP": "image/webp",
    "PPM": "image/x-portable-anymap",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
}
# How other files begin
OTHER_TYPES: tuple[tuple[bytes, str], ...] = (
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\x01\xba", "video/mpeg"),
    (b"\0\0\x01\xb3", "video/mpeg"),
    (b"FLV\x01", "video/x-flv"),
    (b"OggS", "video/ogg"),
    (b"0&\xb2u\x8ef\xcf\x11", "video/x-ms-asf"),
    (b"YUV4MPEG2", "video/x-yuv4mpeg"),
)
QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip")
MATROSKA, WEBM = b"\x1aE\xdf\xa3", b"webm"
TRANSPORT_PACKET = 188  # bytes; each begins with the same one
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class FileFacts:
    """Which bytes a result is about, and what they say of their origin.

    Attributes:
        sha256: of the whole file, in hexadecimal.
        bytes: how many.
        type: by its content, as a MIME type.
        modified: when it was last changed, by the file system; UTC, ISO 8601.
        metadata: of a picture.
        c2pa: its Content Credentials.
    """

    sha256: str
    bytes: int
    type: str = UNKNOWN_TYPE
    modified: str | None = None
    metadata: PictureMetadata | None = None
    c2pa: ContentCredentials | None = None

    def entry(self) -> dict[str, Any]:
        """As members of a file's entry in results.json, without what there is no value for."""
        return _without_none(asdict(self))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> FileFacts:
        """The reverse of ``entry``.

        Raises:
            KeyError, TypeError: for what is none.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        members = {name: value for name, value in entry.items() if name in known}
        if (told := members.get("metadata")) is not None:
            small = told.get("thumbnail")
            members["metadata"] = PictureMetadata(
                **told
                | {
                    "software": tuple(told.get("software", ())),
                    "left_out": tuple(told.get("left_out", ())),
                    "thumbnail": None if small is None else Thumbnail(**small),
                }
            )
        if (signed := members.get("c2pa")) is not None:
            members["c2pa"] = ContentCredentials(**{"present": None} | signed)
        return cls(**members)


def read_facts(
    path: str | os.PathLike,
    image: np.ndarray | None = None,
    credentials: CredentialsReader | None = None,
) -> FileFacts | None:
    """The facts of a regular file; None if it cannot be read, or is gone.

    It is gone through once for its hash, block by block, and once from part to part.

    Args:
        path: of it.
        image: what the picture shows, upright, [H, W, 3] uint8; None of a video, or where it could
            not be read.
        credentials: reads its manifest; None: that is not looked for.
    """
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
            kind = media_type(read_at(stream, 0, HEAD))
            modified = modification_time(os.fstat(stream.fileno()).st_mtime_ns)
            facts = FileFacts(digest, size, kind, modified)
            # A stranger's bytes, cut off while they are read: the facts stand without what they say
            with contextlib.suppress(Exception):
                facts = _with_origin(facts, stream, path, image, credentials)
            return facts
    except (OSError, ValueError):
        return None


def _with_origin(
    facts: FileFacts,
    stream: BinaryIO,
    path: str | os.PathLike,
    image: np.ndarray | None,
    credentials: CredentialsReader | None,
) -> FileFacts:
    """Add what a file says of its origin."""
    parts = find_parts(stream)
    if facts.type in ("image/avif", "image/heif"):
        add_inner_metadata(stream, os.fspath(path), parts)
    is_picture = facts.type.startswith("image/")
    return dataclasses.replace(
        facts,
        metadata=picture_metadata(parts, image) if is_picture else None,
        c2pa=None
        if credentials is None
        else credentials.read(path, facts.type, parts.manifest_bytes, parts.told_by_xmp.provenance),
    )


def media_type(head: bytes) -> str:
    """The MIME type of a file that begins so; ``UNKNOWN_TYPE`` of what is not known."""
    form = picture_format(head)
    if form is not None:
        return PICTURE_TYPES.get(form, UNKNOWN_TYPE)
    for start, name in OTHER_TYPES:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video/x-msvideo"
    if head.startswith(MATROSKA):
        return "video/webm" if WEBM in head[:64] else "video/x-matroska"
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    if head[4:8] in QUICKTIME_BOXES:
        return "video/quicktime"
    if head[:1] == b"G" and head[TRANSPORT_PACKET : TRANSPORT_PACKET + 1] == b"G":
        return "video/mp2t"
    return UNKNOWN_TYPE


def modification_time(nanoseconds: int) -> str | None:
    """A time since 1970 in UTC, ISO 8601, to the millisecond; None of one that no calendar has."""
    try:
        moment = EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
    return utc_text(moment)


def utc_text(moment: datetime) -> str:
    """ISO 8601, to the millisecond, with Z for UTC."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return list(value) if isinstance(value, tuple) else value

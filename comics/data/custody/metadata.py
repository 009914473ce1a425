"""What a picture says of its own origin: its EXIF and XMP, a few fields of them.

None of it is proof: whoever has the file can write there what they like. Where it was taken is told
as a yes or no only, since results are passed on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from comics.data.custody.exif import Exif
from comics.data.custody.parts import MAX_EXIF, MAX_XMP, MetadataParts
from comics.data.custody.thumbnail import Thumbnail, compare_thumbnail
from comics.data.image_headers import open_image

MAX_PROGRAMS = 8


@dataclass(frozen=True)
class PictureMetadata:
    """Of EXIF and XMP; texts as they are written there, escaped and cut.

    Attributes:
        camera: make and model.
        software: programs that are named.
        times: by where they stand: ``exif_taken``, ``exif_digitised``, ``exif_changed``,
            ``xmp_created``, ``xmp_changed``, ``xmp_metadata_changed``, ``photoshop_created``.
        has_gps: whether a position is in it.
        source_type: IPTC's digital source type, such as "trainedAlgorithmicMedia".
        thumbnail: of the small picture in its EXIF; None without one.
        left_out: what was too large to be read.
    """

    camera: str | None = None
    software: tuple[str, ...] = ()
    times: dict[str, str] = field(default_factory=dict)
    has_gps: bool = False
    source_type: str | None = None
    thumbnail: Thumbnail | None = None
    left_out: tuple[str, ...] = ()


def picture_metadata(parts: MetadataParts, image: np.ndarray | None) -> PictureMetadata:
    """Of what was found in a file.

    Args:
        parts: see ``comics.data.custody.parts.find_parts``.
        image: the picture, upright, [H, W, 3] uint8; None: it was not read.
    """
    exif = parts.exif or Exif()
    xmp = parts.told_by_xmp
    programs = dict.fromkeys([*exif.software, *xmp.software, *parts.software])
    thumbnail = None
    if exif.thumbnail is not None:
        thumbnail = compare_thumbnail(exif.thumbnail, image, exif.orientation)
    return PictureMetadata(
        camera=_camera(exif.make or xmp.make, exif.model or xmp.model),
        software=tuple(programs)[:MAX_PROGRAMS],
        times=exif.times | xmp.times,
        has_gps=exif.has_position or xmp.has_position,
        source_type=xmp.source_type,
        thumbnail=thumbnail,
        left_out=tuple(parts.left_out),
    )


def add_inner_metadata(stream: BinaryIO, path: str, parts: MetadataParts) -> None:
    """EXIF and XMP of HEIF and AVIF, which Pillow's reader finds."""
    try:
        with open_image(stream, path, whole=False) as opened:
            told = {} if opened.image is None else opened.image.info
    except Exception:  # of any kind: the reader of pictures says what is wrong with it
        return
    for name, take, limit in (
        ("exif", parts.take_exif, MAX_EXIF),
        ("xmp", parts.take_xmp, MAX_XMP),
    ):
        block = told.get(name)
        if isinstance(block, bytes) and block:
            take(block if len(block) <= limit else None, len(block))


def _camera(make: str | None, model: str | None) -> str | None:
    """ "Canon EOS R5" of Canon and Canon EOS R5: makers repeat themselves."""
    if make is not None and model is not None and model.lower().startswith(make.lower()):
        return model
    return " ".join(_told((make, model))) or None


def _told(texts: Iterable[str | None]) -> list[str]:
    return [text for text in texts if text is not None]

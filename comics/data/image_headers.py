"""Opening untrusted image files: the format by the content, the header by what pixels need of it.

Shape letters: H, W height and width after the orientation has been applied.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from comics.data.file_kinds import HEAD, picture_format, unread_format
from comics.data.jpeg_structure import Jpeg, read_jpeg
from comics.data.orientation import AS_STORED, SWAPPING
from comics.data.png_structure import PngError, read_png
from comics.data.spliced import read_at, spliced
from comics.data.tiff_pixels import decode_tiff, is_unusual
from comics.data.tiff_structure import FLOAT, RAW, SIGNED, Page, read_tiff
from comics.data.webp_structure import read_webp

# Pillow also opens formats that run other programs (EPS) or are no photos; those stay closed
FORMATS = (
    "AVIF BMP GIF HEIF JPEG JPEG2000 MPO PNG PPM TGA TIFF WEBP".split()  # noqa: SIM905
)
WITHOUT_SIGNATURE = ("TGA",)
DEEPEST = 8  # bits per sample that Pillow inverts itself where white is zero


class ImageError(ValueError):
    """An image that cannot be used: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class TooManyPixels(ImageError):
    """An image that is larger than allowed; it has not been decoded."""


class NoImageError(ImageError):
    """A file that does not begin as an image does."""


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header has been read; a context manager, which leaves its stream open.

    Attributes:
        stored_size: (width, height) as stored, or upright where ``orientation`` is None.
        image: of Pillow; None where ``decode`` is to be called.
        orientation: as EXIF counts; None: Pillow is to be asked.
        page: of a TIFF, the one that is open.
        jpeg: of a JPEG, its layout.
        is_cut: whether the file ends earlier than it says; of a WebP only.
        decode: gives the stored pixels, [H, W, 3] uint8, of what Pillow does not read.
    """

    stored_size: tuple[int, int]
    image: Image.Image | None = None
    orientation: int | None = None
    page: Page | None = None
    jpeg: Jpeg | None = None
    is_cut: bool = False
    decode: Callable[[], np.ndarray] | None = None

    @classmethod
    def of(cls, image: Image.Image, **attributes: Any) -> OpenedImage:
        """One that Pillow reads."""
        return cls(image.size, image, **attributes)

    @property
    def pillow_image(self) -> Image.Image:
        """``image`` of a file that Pillow reads."""
        assert self.image is not None
        return self.image

    def __enter__(self) -> OpenedImage:
        return self

    def __exit__(self, *_: object) -> None:
        if self.image is not None:
            self.image.close()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), upright."""
        width, height = self.stored_size
        orientation = self.orientation
        # Pillow's TIFF reader has exchanged the two already
        if orientation is None and self.image is not None and self.image.format != "TIFF":
            orientation = _orientation(self.image)
        return (width, height) if orientation in SWAPPING else (height, width)

    def check_pixels(self, name: str | os.PathLike, max_pixels: int) -> None:
        """Refuse an image without pixels, or with too many.

        Raises:
            ImageError: saying so.
        """
        width, height = self.stored_size
        if width * height == 0:
            raise ImageError(name, f"{width}x{height}: it has no pixels")
        if width * height > max_pixels:
            raise TooManyPixels(name, too_many_pixels(width, height, max_pixels))


def open_file(path: str | os.PathLike) -> BinaryIO:
    """The file, opened.

    Raises:
        ImageError: if it cannot be.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        raise ImageError(path, f"cannot be read: {describe(error)}") from error


def open_image(stream: BinaryIO, name: str | os.PathLike, whole: bool = True) -> OpenedImage:
    """Read a header, with nothing of the file that its pixels do not need.

    Args:
        stream: of the file; it must stay open, and not be used, as long as the image is.
        name: for messages.
        whole: False: only the header is wanted; checks that read the file to its end are left out.

    Raises:
        ImageError: if it is no image, or its header is broken.
    """
    try:
        head = read_at(stream, 0, HEAD)
        if not head:
            raise ImageError(name, "the file is empty")
        Image.init()
        _register_heif()
        form = picture_format(head)
        _check_format(form, head, name)
        if form == "JPEG":
            jpeg = read_jpeg(stream, scans=whole)
            image = _open(spliced(stream, jpeg.with_ending()), form, name)
            return OpenedImage.of(image, orientation=jpeg.orientation, jpeg=jpeg)
        if form == "PNG":
            png = read_png(stream, check=whole)
            image = _open(spliced(stream, png.parts), form, name)
            return OpenedImage.of(image, orientation=png.orientation)
        if form == "WEBP":
            webp = read_webp(stream)
            image = _open(spliced(stream, webp.parts), form, name)
            return OpenedImage.of(image, orientation=webp.orientation, is_cut=webp.is_cut)
        if form == "TIFF":
            return _open_tiff(stream, name)
        stream.seek(0)
        return OpenedImage.of(_open(stream, form, name))
    except PngError as error:
        raise ImageError(name, str(error)) from error
    except OSError as error:
        raise ImageError(name, f"cannot be read: {describe(error)}") from error


def _check_format(form: str | None, head: bytes, name: str | os.PathLike) -> None:
    if form == "HEIF" and not ("HEIF" in FORMATS and "HEIF" in Image.OPEN):
        reason = "a HEIC picture: reading them needs the package pillow-heif (pip install it)"
        raise ImageError(name, reason)
    if form is not None and form not in Image.OPEN:
        raise ImageError(name, f"a {form} picture, which this build of Pillow cannot read")
    if form is None and (unread := unread_format(head)):
        raise ImageError(name, f"a picture in the format {unread}, which is not read")


def _open(stream: BinaryIO, form: str | None, name: str | os.PathLike) -> Image.Image:
    """Let Pillow read the header, as the format that the content has.

    Raises:
        ImageError: if it cannot.
    """
    try:
        return Image.open(stream, formats=WITHOUT_SIGNATURE if form is None else [form])
    except Image.UnidentifiedImageError as error:
        if form is None:
            known = [known for known in FORMATS if known in Image.OPEN]
            reason = f"not an image in a known format ({', '.join(known)})"
            raise NoImageError(name, reason) from error
        detail = _header_fault(stream, form)
        raise ImageError(name, f"a {form} picture that cannot be opened: {detail}") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(name, _too_large(stream, form)) from error
    except OSError:
        raise
    # Plugins meet broken headers with many kinds of exception
    except Exception as error:
        raise ImageError(name, f"cannot be opened: {describe(error)}") from error


def _too_large(stream: BinaryIO, form: str | None) -> str:
    """The reason for refusing a picture that Pillow finds too large, with its size if it is known.

    Some plugins (WebP) check the size themselves, before they tell it.
    """
    stream.seek(0)
    try:
        width, height = Image.OPEN[form or ""][0](stream, "").size
    except (KeyError, Image.DecompressionBombError):
        return f"it has more than the {_pillow_limit()} pixels allowed"
    return too_many_pixels(width, height, _pillow_limit())


def _header_fault(stream: BinaryIO, form: str) -> str:
    """What Pillow, which keeps it to itself, has against a header."""
    try:
        stream.seek(0)
        Image.OPEN[form][0](stream, "")
    except Exception as error:  # of any kind, see above
        return describe(error)
    return "its header is broken"


def _open_tiff(stream: BinaryIO, name: str | os.PathLike) -> OpenedImage:
    tiff = read_tiff(stream)
    page = None if tiff is None else tiff.chosen()
    if tiff is None or page is None:
        stream.seek(0)
        return OpenedImage.of(_open(stream, "TIFF", name))
    larger = [below for below in tiff.below if below.is_picture and _is_larger(below, page)]
    raw = next((each for each in [page, *larger] if each.photometric in RAW), None)
    if raw is not None:
        raise ImageError(
            name,
            f"its picture of {raw.size} is {RAW[raw.photometric]}, which is not read: give it as "
            "JPEG, PNG or TIFF",
        )
    page = larger[0] if larger else page
    if page.sample_format == FLOAT:
        raise ImageError(name, "floating-point pixels have no defined range of values")
    if page.sample_format == SIGNED:
        raise ImageError(name, "signed pixels have no defined range of values")
    if is_unusual(page):
        first = spliced(stream, tiff.parts(page, white_is_zero=False))
        return OpenedImage(
            (page.width, page.height),
            orientation=page.orientation,
            page=page,
            decode=lambda: decode_tiff(first, page),
        )
    parts = tiff.parts(page, white_is_zero=page.bits <= DEEPEST)
    return OpenedImage.of(_open(spliced(stream, parts), "TIFF", name), page=page)


def _is_larger(page: Page, other: Page) -> bool:
    return page.width * page.height > other.width * other.height


@functools.cache
def _register_heif() -> None:
    """Let Pillow open HEIF where the plug-in is installed; it is too large to be required."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener(thumbnails=False)


def too_many_pixels(width: int, height: int, max_pixels: int, frames: bool = False) -> str:
    """The reason for refusing a picture, or a video's frames."""
    what = f"frames of {width}x{height} are" if frames else f"{width}x{height} is"
    return f"{what} {width * height} pixels, more than the {max_pixels} allowed (INPUT.MAX_PIXELS)"


def _pillow_limit() -> int:
    limit = Image.MAX_IMAGE_PIXELS
    return sys.maxsize if limit is None else 2 * limit  # up to there it only warns


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, AS_STORED)
    except Exception:  # a broken EXIF block: the picture itself may be sound
        return AS_STORED


def describe(error: Exception) -> str:
    """What an error says."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

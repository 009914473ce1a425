"""Untrusted image files to RGB, 8 bits: one path for photos, scans, palettes and animations.

What becomes of unusual images:

* EXIF orientation is applied; an EXIF block that cannot be read is ignored, as viewers do;
* grey, palette, 1-bit, CMYK, YCbCr, HSV: converted to RGB (ICC profiles are not applied);
* transparency: composited on white, what a viewer shows on a white page;
* 16 bits per channel: the high byte, which is how Pillow itself reads 16-bit RGB; greyscale in
  Pillow's 32-bit mode "I" is taken as 16-bit and cut to 0..65535;
* animations and multi-picture files: the first frame;
* HEIC and HEIF: where the plug-in pillow-heif is installed; otherwise the reason says so;
* floating-point images: refused, since their range of values is not defined;
* more than ``max_pixels`` pixels: refused from the header, before any pixel is decoded.

Shape letters: H, W height and width after the orientation has been applied.
"""

from __future__ import annotations

import functools
import io
import os
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow itself refuses
WHITE = (255, 255, 255, 255)
# Pillow also opens formats that run other programs (EPS) or are no photos; those stay closed
FORMATS = (
    "AVIF BMP GIF HEIF JPEG JPEG2000 MPO PNG PPM TGA TIFF WEBP".split()  # noqa: SIM905
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)  # EXIF: those that exchange width and height


class ImageError(ValueError):
    """An image that cannot be used: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode a file to RGB, [H, W, 3] uint8.

    Raises:
        ImageError: if the file is missing, empty, truncated, larger than ``max_pixels`` or not an
            image in one of ``FORMATS``.
    """
    with _open_file(path) as stream:
        return _decode(stream, path, max_pixels)


def decode_image(
    data: bytes, name: str | os.PathLike = "<bytes>", max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Decode a file's content as ``read_image`` does; ``name`` is for messages."""
    return _decode(io.BytesIO(data), name, max_pixels)


def read_image_size(
    path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[int, int]:
    """(H, W) from a file's header, orientation applied; no pixel is decoded.

    Raises:
        ImageError: as ``read_image``, as far as the header tells.
    """
    with _open_file(path) as stream, open_image(stream, path) as image:
        _check_pixels(image, path, max_pixels)
        width, height = image.size
        # Pillow's TIFF reader has exchanged the two already
        if image.format != "TIFF" and _orientation(image) in _SWAPPING_ORIENTATIONS:
            return width, height
        return height, width


def to_rgb(image: Image.Image, name: str | os.PathLike = "<image>") -> np.ndarray:
    """A loaded Pillow image as RGB, [H, W, 3] uint8; see the module for what becomes of modes.

    Raises:
        ImageError: for a mode without a defined range of values or conversion.
    """
    image = _upright(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        high_byte = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return np.repeat(high_byte.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(name, "floating-point pixels have no defined range of values")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba)
    return np.array(image.convert("RGB"))


def image_to_tensor(image: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 array to a contiguous [3, H, W] uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def tensor_to_image(image: Tensor) -> np.ndarray:
    """[3, H, W] uint8 tensor to a contiguous [H, W, 3] uint8 array."""
    return np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0))


def _decode(stream: BinaryIO, name: str | os.PathLike, max_pixels: int) -> np.ndarray:
    with open_image(stream, name) as image:
        _check_pixels(image, name, max_pixels)
        try:
            image.load()
            return to_rgb(image, name)
        except ImageError:
            raise
        # Pillow's decoders meet broken data with many kinds of exception
        except Exception as error:
            raise ImageError(name, f"cannot be decoded: {_describe(error)}") from error


def _open_file(path: str | os.PathLike) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise ImageError(path, "no such file") from error
    except (OSError, ValueError) as error:  # a folder, no permission, a NUL in the name
        raise ImageError(path, f"cannot be read: {_describe(error)}") from error


def open_image(stream: BinaryIO, name: str | os.PathLike) -> Image.Image:
    """The picture of a stream, of which only the header is read.

    Raises:
        ImageError: if it is empty, or no picture in one of ``FORMATS``.
    """
    if not stream.read(1):
        raise ImageError(name, "the file is empty")
    stream.seek(0)
    Image.init()
    _register_heif()
    known = [form for form in FORMATS if form in Image.OPEN]
    try:
        return Image.open(stream, formats=known)
    except Image.UnidentifiedImageError as error:
        if "HEIF" not in known and _is_heif(stream):
            reason = "a HEIC picture: reading them needs the package pillow-heif (pip install it)"
            raise ImageError(name, reason) from error
        raise ImageError(name, f"not an image in a known format ({', '.join(known)})") from error
    # Plugins meet broken headers with many kinds of exception
    except Exception as error:
        raise ImageError(name, f"cannot be opened: {_describe(error)}") from error


@functools.cache
def _register_heif() -> None:
    """Let Pillow open HEIF where the plug-in is installed; it is too large to be required."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener(thumbnails=False)


def _is_heif(stream: BinaryIO) -> bool:
    """Whether a file begins as HEIF does: a box "ftyp" that names one of its brands."""
    stream.seek(0)
    head = stream.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def _check_pixels(image: Image.Image, name: str | os.PathLike, max_pixels: int) -> None:
    width, height = image.size
    if width * height == 0:
        raise ImageError(name, f"{width}x{height}: it has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            name,
            f"{width}x{height} is {width * height} pixels, more than the {max_pixels} allowed "
            "(INPUT.MAX_PIXELS)",
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block: the picture itself may be sound
        return 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block: the picture itself may be sound
        return image


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__

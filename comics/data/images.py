"""Untrusted image files to RGB, 8 bits: one path for photos, scans, palettes and animations.

What becomes of unusual images:

* the format is what the content says; the name plays no part;
* metadata does not matter, whatever its size or state, but for the EXIF orientation, which is
  applied (of AVIF and HEIF: their own turns and mirrors). A chunk or segment that pixels come from
  must be sound, and all pixels must be there; an end marker need not be;
* grey, palette, 1-bit, CMYK, YCbCr, Lab, HSV: converted to RGB (ICC profiles are not applied);
* transparency: composited on white, what a viewer shows on a white page;
* more than 8 bits per channel: the 8 highest of as many as the file says that there are;
  greyscale in Pillow's 32-bit mode "I" is taken as 16-bit and cut to 0..65535. White is zero where
  a TIFF says so;
* of a TIFF, the first page that is neither a smaller version of another nor a mask; of other files
  with several pictures the first (``comics.data.picture_parts`` tells what is left);
* HEIC and HEIF: where the plug-in pillow-heif is installed; otherwise the reason says so;
* floating-point and signed values: refused, since their range is not defined;
* more than ``max_pixels`` pixels: refused from the header, before any pixel is decoded.

Shape letters: H, W height and width after the orientation has been applied.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from comics.data.image_headers import (
    FORMATS,
    ImageError,
    NoImageError,
    OpenedImage,
    TooManyPixels,
    describe,
    open_file,
    open_image,
    too_many_pixels,
)
from comics.data.jpeg_structure import Jpeg
from comics.data.orientation import AS_STORED, upright
from comics.data.spliced import spliced
from comics.data.tiff_structure import WHITE_IS_ZERO, Page

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "ImageError",
    "NoImageError",
    "TooManyPixels",
    "decode_image",
    "image_to_tensor",
    "open_file",
    "open_image",
    "read_image",
    "read_image_size",
    "tensor_to_image",
    "to_rgb",
    "too_many_pixels",
    "upright_rgb",
]

DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow itself refuses
WHITE = (255, 255, 255, 255)
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
CORNER = 8  # pixels; the side of a JPEG's blocks
DRAFT = 8  # the least share of its size that a JPEG is decoded to


def read_image(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode a file to RGB, [H, W, 3] uint8.

    Raises:
        ImageError: if the file is missing, empty, cut off within its pixels, larger than
            ``max_pixels`` or not an image in one of ``FORMATS``.
    """
    with open_file(path) as stream:
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
    with open_file(path) as stream, open_image(stream, path, whole=False) as opened:
        opened.check_pixels(path, max_pixels)
        return opened.size


def to_rgb(image: Image.Image, name: str | os.PathLike = "<image>") -> np.ndarray:
    """A loaded Pillow image as RGB, [H, W, 3] uint8; see the module for what becomes of modes.

    Raises:
        ImageError: for a mode without a defined range of values or conversion.
    """
    return _rgb(_transposed(image), name)


def upright_rgb(opened: OpenedImage, name: str | os.PathLike) -> np.ndarray:
    """The picture, or frame, that is loaded: [H, W, 3] uint8.

    Raises:
        ImageError: as ``to_rgb``.
    """
    if opened.orientation is None:
        return _rgb(_transposed(opened.pillow_image), name, opened.page)
    return upright(_rgb(opened.pillow_image, name, opened.page), opened.orientation)


def image_to_tensor(image: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 array to a contiguous [3, H, W] uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def tensor_to_image(image: Tensor) -> np.ndarray:
    """[3, H, W] uint8 tensor to a contiguous [H, W, 3] uint8 array."""
    return np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0))


def _decode(stream: BinaryIO, name: str | os.PathLike, max_pixels: int) -> np.ndarray:
    with open_image(stream, name) as opened:
        opened.check_pixels(name, max_pixels)
        try:
            if opened.decode is not None:
                return upright(opened.decode(), opened.orientation or AS_STORED)
            image = opened.pillow_image
            image.load()
            if opened.jpeg is not None and _misses_pixels(stream, image, opened.jpeg):
                raise ImageError(name, "truncated: a part of its pixels is missing")
            return upright_rgb(opened, name)
        except (ImageError, MemoryError):
            raise
        # Pillow's decoders meet broken data with many kinds of exception
        except Exception as error:
            raise ImageError(name, f"cannot be decoded: {describe(error)}") from error


def _misses_pixels(stream: BinaryIO, image: Image.Image, jpeg: Jpeg) -> bool:
    """Whether pixels of a decoded JPEG are not in the file, but a decoder's filling.

    Where there is an end marker and the filling would be a plain corner, a look at it is enough.
    """
    if not jpeg.ended and not jpeg.has_all_scans:
        return True
    if jpeg.ended and not jpeg.is_progressive and not jpeg.has_restarts:
        width, height = image.size
        corner = np.asarray(
            image.crop((max(0, width - CORNER), max(0, height - CORNER), width, height))
        )
        if (corner != corner[-1, -1]).any():
            return False
    one, other = (_with_ending(stream, jpeg, ending) for ending in (b"", jpeg.other_ending))
    return not np.array_equal(one, other)


def _with_ending(stream: BinaryIO, jpeg: Jpeg, ending: bytes) -> np.ndarray:
    with Image.open(spliced(stream, jpeg.with_ending(ending)), formats=["JPEG"]) as image:
        if not jpeg.is_progressive:  # whose last scans do not show at a small size
            width, height = image.size
            image.draft(image.mode, (max(1, width // DRAFT), max(1, height // DRAFT)))
        return np.asarray(image)


def _rgb(image: Image.Image, name: str | os.PathLike, page: Page | None = None) -> np.ndarray:
    if image.mode in DEEP_MODES:
        high_byte = _high_byte(np.asarray(image), page)
        return np.repeat(high_byte[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(name, "floating-point pixels have no defined range of values")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba)
    return np.array(image.convert("RGB"))


def _high_byte(values: np.ndarray, page: Page | None) -> np.ndarray:
    """The 8 highest bits of [H, W] values, as uint8."""
    bits = 16 if page is None else page.bits
    if bits > 16:  # all bits of a signed type
        values = values.view(np.uint32)
    elif values.dtype.itemsize > 2:
        values = np.clip(values, 0, 65535)
    high_byte = (values >> (bits - 8)).astype(np.uint8)
    white_is_zero = page is not None and page.photometric == WHITE_IS_ZERO
    return 255 - high_byte if white_is_zero else high_byte


def _transposed(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block: the picture itself may be sound
        return image

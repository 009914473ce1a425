"""Pages of TIFF that Pillow does not decode, or not rightly: OpenCV's libtiff does.

These are 10, 12 and 14 bits per sample beyond what Pillow has, and YCbCr whose colours are stored
with fewer samples than its brightness but without JPEG, which Pillow reads as if they were not.

Shape letters: H, W height and width as stored.
"""

from __future__ import annotations

from typing import BinaryIO

import cv2
import numpy as np

from comics.data.tiff_structure import WHITE_IS_ZERO, Page

GREY, RGB, YCBCR = (0, 1), 2, 6
PACKED_BITS = (10, 12, 14)  # that OpenCV shifts to the top of 16
JPEG_COMPRESSIONS = (6, 7)


def is_unusual(page: Page) -> bool:
    """Whether a page is one for ``decode_tiff``."""
    if page.photometric == YCBCR:
        return page.samples == 3 and page.compression not in JPEG_COMPRESSIONS
    channels = {**dict.fromkeys(GREY, 1), RGB: 3}.get(page.photometric)
    return page.bits in PACKED_BITS and page.samples == channels


def decode_tiff(stream: BinaryIO, page: Page) -> np.ndarray:
    """[H, W, 3] uint8 RGB of the first page of a file, not turned upright.

    Raises:
        ValueError: if it cannot be decoded.
    """
    content = np.frombuffer(stream.read(), np.uint8)
    flags = (
        cv2.IMREAD_COLOR
        if page.photometric == YCBCR
        else cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_GRAYSCALE if page.samples == 1 else cv2.IMREAD_COLOR)
    )
    try:
        image: np.ndarray | None
        image = cv2.imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if image is None or image.shape[:2] != (page.height, page.width):
        raise ValueError(f"{page.bits} bits per sample in an arrangement that is not read")
    if image.dtype == np.uint16:
        image = np.right_shift(image, 8).astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if page.photometric == WHITE_IS_ZERO:
        image = 255 - image
    return np.ascontiguousarray(image[..., ::-1])

"""Turning pictures and frames upright: EXIF orientations 1 to 8, and display matrices of videos.

The eight orientations are the symmetries of a square: four turns, each with or without a mirror.
A display matrix may also say what is none of them (a shear, another angle, nothing at all): the
nearest of the eight is taken, and one that is singular, of which no player makes a picture, is
ignored.

Shape letters: H, W height and width.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

AS_STORED = 1
SWAPPING = frozenset({5, 6, 7, 8})  # those that exchange width and height
ORIENTATION_TAG = 0x0112
EXIF_PREFIX = b"Exif\0\0"
TIFF_MAGIC = 42
SHORT, LONG = 3, 4  # types of a TIFF field
# Where a stored (right, down) goes: (a, b, c, d) of x' = a x + c y, y' = b x + d y, y downwards
_MAPS = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
LEAST_AREA = 0.01  # of a unit square after a matrix whose columns have length 1; below: singular


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The stored [H, W, ...] as it is to be seen, contiguous; ``orientation`` as EXIF counts."""
    if orientation == AS_STORED:
        return np.ascontiguousarray(image)
    a, b, c, d = _MAPS[orientation]
    if orientation in SWAPPING:
        image = image.swapaxes(0, 1)
        a, d = c, b
    return np.ascontiguousarray(image[::d, ::a])


def matrix_orientation(matrix: Sequence[float]) -> int:
    """The orientation that is nearest to a display matrix.

    Args:
        matrix: nine numbers (a, b, u, c, d, v, x, y, w) as ISO/IEC 14496-12 stores them, in any
            scale; a point goes to (a x + c y + x0, b x + d y + y0).

    Returns:
        1 to 8 as EXIF counts them; 1 for a matrix that is singular.
    """
    a, b, _, c, d = (float(value) for value in matrix[:5])
    right, down = math.hypot(a, b), math.hypot(c, d)
    if not right or not down or not math.isfinite(right * down):
        return AS_STORED
    a, b, c, d = a / right, b / right, c / down, d / down
    area = a * d - b * c
    if abs(area) < LEAST_AREA:
        return AS_STORED
    alike = {
        orientation: sum(x * y for x, y in zip(candidate, (a, b, c, d), strict=True))
        for orientation, candidate in _MAPS.items()
        if (candidate[0] * candidate[3] - candidate[1] * candidate[2]) * area > 0
    }
    return max(alike, key=lambda orientation: alike[orientation])


def exif_orientation(block: bytes) -> int:
    """The orientation that an EXIF block states, 1 where it says nothing that makes sense.

    Only the few bytes that say it are looked at, so a block that is broken elsewhere, or cut off,
    still tells.

    Args:
        block: with or without the six bytes "Exif" that JPEG puts in front.
    """
    block = block.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        magic, start = struct.unpack_from(f"{order}HI", block, 2)
        if order is None or magic != TIFF_MAGIC:
            return AS_STORED
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for number in range(count):
            place = start + 2 + 12 * number
            tag, kind = struct.unpack_from(f"{order}HH", block, place)
            if tag == ORIENTATION_TAG:
                form = {SHORT: "H", LONG: "I"}.get(kind, "B")
                (value,) = struct.unpack_from(order + form, block, place + 8)
                return value if value in _MAPS else AS_STORED
    except struct.error:
        pass
    return AS_STORED

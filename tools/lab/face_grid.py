"""Pictures of any size with any number of faces, put together from portraits of one person each."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

PORTRAITS = "single_*"  # of a folder of samples


def read_portraits(folder: Path) -> list[np.ndarray]:
    """The portraits [H, W, 3] uint8 RGB of a folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    from comics.data.images import read_image

    paths = sorted(folder.glob(PORTRAITS))
    if not paths:
        raise FileNotFoundError(f"no portraits ({PORTRAITS}) in {folder}")
    return [read_image(path) for path in paths]


def face_grid(portraits: list[np.ndarray], faces: int, height: int, width: int) -> np.ndarray:
    """A picture [height, width, 3] of portraits in rows; what is left is grey.

    Args:
        portraits: used in turn.
        faces: how many.
        height, width: pixels.
    """
    columns = max(1, round(math.sqrt(faces * width / height)))
    rows = math.ceil(faces / columns)
    cell = min(height // rows, width // columns)
    picture = np.full((height, width, 3), 127, np.uint8)
    for number in range(faces):
        own = _square(portraits[number % len(portraits)])
        row, column = divmod(number, columns)
        top, left = row * height // rows, column * width // columns
        resized = cv2.resize(own, (cell, cell), interpolation=cv2.INTER_AREA)
        picture[top : top + cell, left : left + cell] = resized
    return picture


def _square(portrait: np.ndarray) -> np.ndarray:
    """The middle of a portrait, as high as wide; of an upright one its upper part."""
    height, width = portrait.shape[:2]
    side = min(height, width)
    top = (height - side) // 4
    left = (width - side) // 2
    return portrait[top : top + side, left : left + side]

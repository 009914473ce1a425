"""From a box in a picture to a square crop of one face.

The window of a crop is made of whole pixels and depends on the box alone. So the same box cuts the
same window out of every copy of a frame: of another compression, of the paired real video, of a
mask. Boxes are (x0, y0, x1, y1) in pixels, right and bottom edges exclusive.

Shape letters: H, W picture; S side of the crop; N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from comics.data.transforms import MASK_THRESHOLD, resize_image

BORDERS = ("replicate", "reflect", "zero")

Box = Sequence[float]


def square_window(box: Box, margin: float) -> tuple[int, int, int, int]:
    """The square of whole pixels around a box's centre; may reach outside of the picture.

    Its side is the box's longer side times ``1 + 2 * margin``, rounded half up.

    Raises:
        ValueError: for a box without area, or one that is not finite, or a margin below 0.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"a box needs finite x0 < x1 and y0 < y1, got {(x0, y0, x1, y1)}")
    if margin < 0:
        raise ValueError(f"a margin must be 0 or more, got {margin}")
    side = max(1, math.floor(max(x1 - x0, y1 - y0) * (1 + 2 * margin) + 0.5))
    left = math.floor((x0 + x1 - side) / 2 + 0.5)
    top = math.floor((y0 + y1 - side) / 2 + 0.5)
    return left, top, left + side, top + side


@dataclass(frozen=True)
class Placement:
    """How a window is moved away from where its box puts it.

    Attributes:
        scale: factor on its side.
        shift: (right, down), as shares of its side before that.
    """

    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, window: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """The square of whole pixels that (left, top, right, bottom) becomes."""
        left, top, right, bottom = window
        old = right - left
        side = max(1, math.floor(old * self.scale + 0.5))
        x = math.floor((left + right - side) / 2 + self.shift[0] * old + 0.5)
        y = math.floor((top + bottom - side) / 2 + self.shift[1] * old + 0.5)
        return x, y, x + side, y + side


STRAIGHT = Placement()


def cut_window(
    image: np.ndarray, window: tuple[int, int, int, int], border: str = "replicate"
) -> np.ndarray:
    """[bottom - top, right - left, ...] of a picture [H, W, ...], at its own resolution.

    Args:
        image: of any type; not changed.
        window: (left, top, right, bottom), whole pixels.
        border: what is outside of the picture: "replicate" repeats its outermost pixels (decision:
            it draws no second face), "reflect" mirrors it, "zero" is empty, for masks.

    Raises:
        ValueError: if the window and the picture have no pixel in common, or for another border.
    """
    if border not in BORDERS:
        raise ValueError(f"a border is one of {', '.join(BORDERS)}, not {border!r}")
    left, top, right, bottom = window
    height, width = image.shape[:2]
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"the window {window} is outside of a picture of {width}x{height}")
    part = image[inside[1] : inside[3], inside[0] : inside[2]]
    pads = (inside[1] - top, bottom - inside[3], inside[0] - left, right - inside[2])
    if not any(pads):
        return np.ascontiguousarray(part)
    if border == "zero":
        return cv2.copyMakeBorder(part, *pads, cv2.BORDER_CONSTANT, value=0)
    if border == "replicate":
        return cv2.copyMakeBorder(part, *pads, cv2.BORDER_REPLICATE)
    # A reflection may show more of the picture than the part that is inside the window
    outer = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    whole = cv2.copyMakeBorder(image, *outer, cv2.BORDER_REFLECT_101)
    x, y = left + outer[2], top + outer[0]
    return np.ascontiguousarray(whole[y : y + bottom - top, x : x + right - left])


def crop_with_margin(
    image: np.ndarray,
    box: Box | None,
    margin: float,
    size: int,
    border: str = "replicate",
    placement: Placement = STRAIGHT,
) -> np.ndarray:
    """A square crop [S, S, ...] of a picture [H, W, ...].

    Args:
        image: uint8.
        box: the face; None: the whole picture, without margin.
        margin: added on each side, as a share of the box's longer side.
        size: S in pixels; 0 keeps the resolution of the picture.
        border: see ``cut_window``.
        placement: how the window is moved.

    Raises:
        ValueError: for an empty box, or one outside of the picture.
    """
    if box is None:
        height, width = image.shape[:2]
        box, margin = (0, 0, width, height), 0.0
    cut = cut_window(image, placement(square_window(box, margin)), border)
    return resize_image(cut, (size, size)) if size else cut


def crop_mask(
    mask: np.ndarray,
    box: Box | None,
    margin: float,
    size: int,
    placement: Placement = STRAIGHT,
) -> np.ndarray:
    """The window of ``crop_with_margin`` out of a mask [H, W] bool: [S, S] bool, empty outside."""
    cut = crop_with_margin(mask.astype(np.uint8) * 255, box, margin, size, "zero", placement)
    return cut > MASK_THRESHOLD


def clip_box(boxes: Sequence[Box]) -> tuple[float, float, float, float]:
    """The one box of a clip: the bounds of a face's boxes in all of its frames, [N, 4], N > 0."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not len(corners):
        raise ValueError("a clip needs at least one box")
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])

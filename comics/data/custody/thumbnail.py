"""Whether the small picture inside a photo's EXIF shows what the photo shows.

Cameras write it with the photo; some programs that change a photo leave it as it was. So a
thumbnail of something else is a trace of a change, and one that agrees proves nothing.

Both are reduced to ``GRID`` x ``GRID`` means of brightness, where resampling, sharpening and
compression hardly show, and are compared block by block after the brightness and contrast of one
were fitted to the other. Cameras put bars beside a thumbnail of another shape, or cut it, so the
best of these readings counts.

Shape letters: H, W height and width; G = GRID.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from comics.data.orientation import AS_STORED, upright

GRID = 12  # blocks across and down: of the usual 160 x 120 pixels, each has 13 x 10
MAX_PIXELS = 1 << 20  # of a thumbnail; a larger one is none
SAME_SHAPE = 0.02  # relative difference of two shapes that rounding explains
DIFFERS_FROM = 0.12  # of the range of brightness; a decision, tried on made pictures only
STEEPEST, FLATTEST = 1.6, 0.6  # contrast of one to the other that an editor's slider explains
LEAST_SPREAD = 2.0  # levels; what is flatter has no contrast to be fitted
LEVELS = 255.0
DECIMALS = 3


@dataclass(frozen=True)
class Thumbnail:
    """What is known of a thumbnail.

    Attributes:
        differs: whether it shows something else; None: it could not be compared.
        difference: the largest difference of a block, as a share of the range of brightness; None
            likewise.
    """

    differs: bool | None = None
    difference: float | None = None


def compare_thumbnail(
    content: bytes, image: np.ndarray | None, orientation: int = AS_STORED
) -> Thumbnail:
    """Of a thumbnail and the picture that it is in.

    Args:
        content: of the thumbnail, a JPEG.
        image: the picture, upright, [H, W, 3] uint8; None: it could not be read.
        orientation: that EXIF states for the picture as it is stored, 1 to 8.
    """
    small = _decode(content)
    if small is None or image is None:
        return Thumbnail()
    grey = cv2.cvtColor(_shrunk(image), cv2.COLOR_RGB2GRAY)
    # Some programs turn the picture and not its thumbnail, or the reverse
    turned = {AS_STORED: small, orientation: upright(small, orientation)}
    difference = min(
        _difference(*views) for one in turned.values() for views in _readings(one, grey)
    )
    difference = round(difference, DECIMALS)
    return Thumbnail(difference >= DIFFERS_FROM, difference)


def _decode(content: bytes) -> np.ndarray | None:
    """Brightness, [H, W] uint8."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if not GRID**2 <= image.width * image.height <= MAX_PIXELS:
                return None
            if min(image.size) < GRID:
                return None
            return np.asarray(image.convert("L"))
    except Exception:  # of any kind: a stranger's bytes
        return None


def _shrunk(image: np.ndarray) -> np.ndarray:
    """A picture small enough for what follows to be quick; by whole steps, which cost nothing."""
    step = max(1, min(image.shape[:2]) // (16 * GRID))
    return np.ascontiguousarray(image[::step, ::step])


def _readings(small: np.ndarray, large: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of what may show the same: whole, without bars, and with the picture cut."""
    yield small, large
    shape = small.shape[1] / small.shape[0]
    other = large.shape[1] / large.shape[0]
    if abs(shape / other - 1) > SAME_SHAPE:
        yield _centre(small, other), large
        yield small, _centre(large, shape)


def _centre(image: np.ndarray, shape: float) -> np.ndarray:
    """The largest part in the middle that has a shape (width to height)."""
    height, width = image.shape[:2]
    across = max(1, min(width, round(height * shape)))
    down = max(1, min(height, round(width / shape)))
    left, top = (width - across) // 2, (height - down) // 2
    return image[top : top + down, left : left + across]


def _difference(small: np.ndarray, large: np.ndarray) -> float:
    one, other = _blocks(small), _blocks(large)
    spread, other_spread = one.std(), other.std()
    gain = 1.0
    if min(spread, other_spread) > LEAST_SPREAD:
        gain = float(np.clip(other_spread / spread, FLATTEST, STEEPEST))
    fitted = (one - np.median(one)) * gain
    return float(np.abs(fitted - (other - np.median(other))).max()) / LEVELS


def _blocks(image: np.ndarray) -> np.ndarray:
    """[G, G] means."""
    return cv2.resize(image.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)

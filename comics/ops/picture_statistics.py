"""Simple statistics of a picture's pixels: how compressed it is, and what it looks like overall.

They need no network, so every runtime says the same. Shape letters: H, W height and width of the
picture; K entries of a descriptor.
"""

from __future__ import annotations

import cv2
import numpy as np

BLOCK = 8  # pixels: JPEG codes squares of this side, and so do most video codecs
DESCRIBED_SIDE = 128  # pixels: a window is looked at in this size
BANDS = 4  # of detail, each half as fine as the one before
# (mean, spread) of luminance; the same of both chroma axes; clipped pixels; detail by band; blocks
DESCRIPTOR_NAMES = (
    "luminance", "contrast", "chroma_a", "chroma_b", "spread_a", "spread_b", "clipped",
    *(f"detail_{band}" for band in range(BANDS)), "blockiness",
)  # fmt: skip
SMALLEST = 2 * BLOCK + 1  # pixels: in less there are no two block edges in a row


def blockiness(luminance: np.ndarray) -> float:
    """How much steeper steps are across a grid of 8 x 8 blocks than elsewhere; 1 without a grid.

    The grid may start at any pixel, as in a window cut from a picture: the strongest of the eight
    starts counts, along each axis, relative to the median of the others.

    Args:
        luminance: [H, W] of any real type, on the 0-255 scale.

    Returns:
        1 or more; 1 too where a side has under 17 pixels. JPEG of quality 75 gives about 1.1, of
        quality 10 above 2. A picture that was resized after compression has no grid any more.

    Source: decision; after Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of
    JPEG compressed images", 2002.
    """
    values = np.asarray(luminance, dtype=np.float32)
    ratios = [_grid_ratio(values, axis) for axis in (0, 1) if values.shape[axis] >= SMALLEST]
    return max(1.0, float(np.sqrt(np.prod(ratios)))) if len(ratios) == 2 else 1.0


def _grid_ratio(values: np.ndarray, axis: int) -> float:
    steps = np.abs(np.diff(values, axis=axis)).mean(1 - axis)
    by_start = np.array([steps[start::BLOCK].mean() for start in range(BLOCK)])
    # Flat pictures have no steps at all: a hundredth of a grey level stands for none
    return float((by_start.max() + 0.01) / (np.median(by_start) + 0.01))


def describe_picture(picture: np.ndarray) -> np.ndarray:
    """[K] float64 descriptor of a picture or window, in the order of ``DESCRIPTOR_NAMES``.

    Luminance, contrast and chroma are in CIELAB (0-100, and about -128 to 127), "clipped" is the
    square root of the share of black and white pixels, detail the logarithm of a band's root mean
    square, and blockiness the logarithm of ``blockiness`` of the picture as it is.

    Args:
        picture: [H, W, 3] uint8 RGB, at least one pixel.
    """
    side = (DESCRIBED_SIDE, DESCRIBED_SIDE)
    shrinks = min(picture.shape[:2]) > DESCRIBED_SIDE
    small = cv2.resize(picture, side, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    luminance = lab[..., 0]
    clipped = ((luminance < 1.5) | (luminance > 98.5)).mean()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.array([
        luminance.mean(), luminance.std(), lab[..., 1].mean(), lab[..., 2].mean(),
        lab[..., 1].std(), lab[..., 2].std(), np.sqrt(clipped), *_details(luminance),
        np.log(blockiness(grey)),
    ], dtype=np.float64)  # fmt: skip


def _details(luminance: np.ndarray) -> list[float]:
    """Log root mean square of each band of a Laplacian pyramid, finest first."""
    found = []
    for _ in range(BANDS):
        coarse = cv2.pyrDown(luminance)
        band = luminance - cv2.pyrUp(coarse, dstsize=luminance.shape[::-1])
        found.append(float(np.log(np.sqrt(np.square(band).mean()) + 0.01)))
        luminance = coarse
    return found

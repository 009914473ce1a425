"""Rough masks of the forged region, from a forgery and the original that it lies on.

A forgery is blended into its original, so the two differ inside the region and, both being
compressed, by a little noise outside of it. The mask follows the difference alone: a swap that
looks like the original has a mask that is too small.

Shape letters: H, W picture.
"""

from __future__ import annotations

import cv2
import numpy as np

CHANGED = 9.0  # least grey levels, 0-255, of a smoothed difference that is no noise
NOISE_FACTOR = 1.5  # how far above the noise of the border, which blending leaves alone
NOISE_QUANTILE = 0.75  # of the smoothed difference along the border: its noise
WORKING_SIDE = 112  # the longer side that differences are looked at, pixels: masks are rough
# Lengths as shares of the picture's longer side
BORDER = 0.06  # width of the border
SMOOTHING = 0.015  # sigma of the smoothing
CLOSING = 0.12  # gaps up to this are part of the region
OPENING = 0.05  # what is thinner than this is not
LEAST_PART = 0.01  # parts under this share of the picture are noise


def difference_mask(forged: np.ndarray, original: np.ndarray) -> np.ndarray | None:
    """[H, W] bool, where two aligned pictures [H, W, 3] uint8 differ; None where nowhere.

    The largest difference of the three colours is smoothed and cut above the noise; gaps are
    closed, spurs and specks left out. Of each part its convex hull is taken: a face is swapped
    as one piece, also where cheeks of both happen to be alike.

    Raises:
        ValueError: if the pictures are of different size.
    """
    if forged.shape != original.shape:
        raise ValueError(f"pictures of {forged.shape[:2]} and {original.shape[:2]} (H, W)")
    height, width = forged.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    side = scale * max(height, width)
    red, green, blue = cv2.split(cv2.absdiff(forged, original))
    difference = cv2.max(cv2.max(red, green), blue).astype(np.float32)
    small = cv2.resize(difference, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), side * SMOOTHING)
    noise = float(np.quantile(smooth[_border(smooth.shape)], NOISE_QUANTILE))
    changed: np.ndarray = (smooth > max(CHANGED, NOISE_FACTOR * noise)).astype(np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, _disc(side * CLOSING))
    changed = cv2.morphologyEx(changed, cv2.MORPH_OPEN, _disc(side * OPENING))
    mask = _hulls(changed, LEAST_PART * changed.size)
    if not mask.any():
        return None
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _hulls(mask: np.ndarray, least: float) -> np.ndarray:
    """Hulls of the parts of [H, W] uint8 that have at least this many pixels within them."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hulls = [cv2.convexHull(part) for part in outlines if cv2.contourArea(part) >= least]
    return cv2.drawContours(np.zeros_like(mask), hulls, -1, 1, cv2.FILLED)


def _disc(diameter: float) -> np.ndarray:
    width = max(3, round(diameter)) | 1  # odd, so that it has a centre
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


def _border(shape: tuple[int, ...]) -> np.ndarray:
    width = max(1, round(max(shape) * BORDER))
    border = np.ones(shape, dtype=bool)
    border[width:-width, width:-width] = False
    return border

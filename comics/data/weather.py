"""Overlays that look like weather: fog, rain, snow. Decision: simple procedural layers.

Images are [H, W, 3] uint8 RGB; H, W height and width.
"""

from __future__ import annotations

import cv2
import numpy as np

FOG_COLOUR = 225.0  # grey of the fog, 0-255
FOG_VARIATION = 0.7  # relative size of the unevenness
FOG_CELLS = (3, 6, 12)  # cells per side of the noise that makes the fog uneven, coarse to fine
RAIN_LENGTH, RAIN_SLANT = 45.0, 20.0  # pixels at scale 1; degrees from vertical
RAIN_SHARE = 0.004  # of the pixels start a streak at amount 1
RAIN_BRIGHTNESS = 190.0
RAIN_DARKENING = 0.3  # of the light is lost at amount 1
SNOW_SIZES = (1.2, 2.2, 4.0)  # sigma of flakes, pixels at scale 1: far, middle, near
SNOW_SHARE = (0.004, 0.0012, 0.0003)  # of the pixels hold a flake of that size at amount 1
SNOW_BRIGHTNESS = 255.0
SNOW_HAZE = 0.25  # opacity of the white haze at amount 1


def add_fog(image: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Mix with grey; the opacity is ``density`` on average and varies smoothly over the picture."""
    height, width = image.shape[:2]
    noise = np.zeros((height, width), dtype=np.float32)
    for cells in FOG_CELLS:  # each finer layer has half the weight of the one before
        layer = rng.random((cells, cells), dtype=np.float32) - 0.5
        weight = FOG_CELLS[0] / cells
        noise += weight * cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    opacity = np.clip(density * (1 + FOG_VARIATION * noise), 0, 1)[..., None]
    return _to_uint8(image * (1 - opacity) + FOG_COLOUR * opacity)


def add_rain(
    image: np.ndarray, amount: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Darken and add bright slanted streaks; ``amount`` 0-1, ``scale`` of lengths in pixels."""
    length = max(5, round(RAIN_LENGTH * scale * rng.uniform(0.7, 1.3)))
    kernel = line_kernel(length | 1, 90 + rng.uniform(-RAIN_SLANT, RAIN_SLANT))
    starts = _sparse(image.shape[:2], RAIN_SHARE * amount, rng)
    # A streak's brightness stays the same whatever its length
    streaks = np.clip(cv2.filter2D(starts, -1, kernel / kernel.max()), 0, 1)[..., None] * 0.7
    dark = image * (1 - RAIN_DARKENING * amount)
    return _to_uint8(dark * (1 - streaks) + RAIN_BRIGHTNESS * streaks)


def add_snow(
    image: np.ndarray, amount: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Add white haze and flakes of three sizes; ``amount`` 0-1, ``scale`` of sizes in pixels."""
    height, width = image.shape[:2]
    cover = np.zeros((height, width), dtype=np.float32)
    for sigma, share in zip(SNOW_SIZES, SNOW_SHARE, strict=True):
        sigma = max(0.5, sigma * scale)
        flakes = cv2.GaussianBlur(_sparse((height, width), share * amount, rng), (0, 0), sigma)
        cover += flakes * (2 * np.pi * sigma**2)  # the middle of a flake is opaque
    cover = np.clip(cover, 0, 1)
    opacity = (1 - (1 - cover) * (1 - SNOW_HAZE * amount))[..., None]
    return _to_uint8(image * (1 - opacity) + SNOW_BRIGHTNESS * opacity)


def line_kernel(length: int, degrees: float) -> np.ndarray:
    """[length, length] float32 kernel of a line through the centre; sums to 1.

    ``length`` is odd; ``degrees`` counter-clockwise from horizontal.
    """
    kernel = np.zeros((length, length), dtype=np.float32)
    centre = length // 2
    dx, dy = np.cos(np.deg2rad(degrees)) * centre, -np.sin(np.deg2rad(degrees)) * centre
    start = (round(centre - dx), round(centre - dy))
    end = (round(centre + dx), round(centre + dy))
    cv2.line(kernel, start, end, 1.0)
    return kernel / kernel.sum()


def _sparse(size: tuple[int, int], share: float, rng: np.random.Generator) -> np.ndarray:
    """[H, W] float32: 1 at ``share`` of the pixels (at least one), 0 elsewhere."""
    layer = np.zeros(size, dtype=np.float32)
    count = max(1, round(share * layer.size))
    layer.reshape(-1)[rng.integers(layer.size, size=count)] = 1.0
    return layer


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

"""Corruptions like those of OpenForensics' test-challenge set: colour, weather, blocks, edges,
pooling, blur, noise, compression. None changes geometry, so boxes and masks stay correct.

OpenForensics names the kinds and gives no parameters; the levels of ``CORRUPTIONS`` are ours
(decision). Lengths are pixels of an image with a long side of 1024, OpenForensics' size, and scale
with the image. Images are [H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from comics.data import views, weather

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_SIDE = 1024  # pixels; lengths in the table belong to this long side
BLOCK_GRID = 12  # chunks per side in block-wise distortions
# The most severe level in a mixture of so many corruptions: all at 5 would leave nothing to see
MIXTURE_SEVERITY = {1: 5, 2: 4, 3: 3}

Function = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Corruption:
    """A function ``(image, level, rng) -> image`` and its five levels, mildest first."""

    group: str
    function: Function
    levels: tuple[float, float, float, float, float]


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Apply one corruption.

    Args:
        image: [H, W, 3] uint8 RGB; not changed.
        name: a key of ``CORRUPTIONS``.
        severity: 1 (mild) to 5.
        rng: all randomness comes from it.

    Returns:
        [H, W, 3] uint8.

    Raises:
        KeyError, ValueError: for an unknown name or severity, listing the choices.
    """
    if name not in CORRUPTIONS:
        raise KeyError(f"no corruption named {name!r}. Choices: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is one of {SEVERITIES}, not {severity!r}")
    corruption = CORRUPTIONS[name]
    return corruption.function(image, corruption.levels[severity - 1], rng)


def draw_challenge(rng: np.random.Generator) -> list[tuple[str, int]]:
    """One to three (name, severity) from different groups, in the order in which they happen."""
    count = int(rng.integers(1, len(MIXTURE_SEVERITY) + 1))
    groups = list(dict.fromkeys(corruption.group for corruption in CORRUPTIONS.values()))
    chosen = sorted(rng.choice(len(groups), count, replace=False))
    mixture = []
    for position in chosen:
        names = [name for name, c in CORRUPTIONS.items() if c.group == groups[position]]
        severity = int(rng.integers(1, MIXTURE_SEVERITY[count] + 1))
        mixture.append((names[int(rng.integers(len(names)))], severity))
    return mixture


def challenge(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a random mixture (``draw_challenge``): [H, W, 3] uint8, same geometry."""
    for name, severity in draw_challenge(rng):
        image = corrupt(image, name, severity, rng)
    return image


def jpeg(image: np.ndarray, quality: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Encode as JPEG of that quality (1-95, Pillow's scale) and decode."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.array(Image.open(buffer).convert("RGB"))


def _scaled(image: np.ndarray, length: float) -> float:
    return length * max(image.shape[:2]) / REFERENCE_SIDE


def _odd(length: float) -> int:
    """The odd number nearest to ``length``, at least 3: a kernel with a centre."""
    return max(3, 2 * round((length - 1) / 2) + 1)


def _ignoring_rng(function: Callable[[np.ndarray, float], np.ndarray]) -> Function:
    return lambda image, level, rng: function(image, level)


def _hue(image: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    shift = rng.choice((-1, 1)) * degrees / 2  # OpenCV halves hue to fit 8 bits: 0..179
    hsv[..., 0] = ((hsv[..., 0].astype(np.int16) + round(shift)) % 180).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _colour_cast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    gains = 1 + strength * rng.permutation([-1.0, rng.uniform(-1, 1), 1.0])
    return _to_uint8(image * gains)


def _posterise(image: np.ndarray, bits: float, rng: np.random.Generator) -> np.ndarray:
    step = 256 >> int(bits)
    return (image // step * step + step // 2).astype(np.uint8)


def _gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(_scaled(image, sigma), 0.3))


def _motion_blur(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    kernel = weather.line_kernel(_odd(_scaled(image, length)), rng.uniform(0, 180))
    return cv2.filter2D(image, -1, kernel)


def _defocus(image: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    size = _odd(2 * _scaled(image, radius))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.float32)
    return cv2.filter2D(image, -1, disk / disk.sum())


def _median(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.medianBlur(image, _odd(_scaled(image, size)))


def _speckle(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return _to_uint8(image * (1 + sigma * noise))


def _shot_noise(image: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(rng.poisson(image * (photons / 255)) * (255 / photons))


def _average_pool(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    size = max(2.0, _scaled(image, size))
    cells = (max(1, round(width / size)), max(1, round(height / size)))
    pooled = cv2.resize(image, cells, interpolation=cv2.INTER_AREA)
    return cv2.resize(pooled, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _max_pool(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    size = _odd(_scaled(image, size))
    return cv2.dilate(image, np.ones((size, size), np.uint8))


def _min_pool(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    size = _odd(_scaled(image, size))
    return cv2.erode(image, np.ones((size, size), np.uint8))


def _edge_overlay(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.convertScaleAbs(cv2.Laplacian(gray, cv2.CV_16S, ksize=3))
    return cv2.addWeighted(image, 1 - strength / 2, cv2.merge([edges] * 3), strength, 0)


def _draw_chunks(share: float, rng: np.random.Generator) -> np.ndarray:
    total = BLOCK_GRID**2
    return rng.choice(total, max(1, round(share * total)), replace=False)


def _block_dropout(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return views.blank_chunks(image, BLOCK_GRID, _draw_chunks(share, rng))


def _block_colour(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Every chosen chunk is mixed half and half with a colour of its own."""
    colours = np.zeros((BLOCK_GRID**2, 4), dtype=np.uint8)
    chunks = _draw_chunks(share, rng)
    colours[chunks, :3] = rng.integers(256, size=(len(chunks), 3))
    colours[chunks, 3] = 1
    size = (image.shape[1], image.shape[0])
    grid = cv2.resize(
        colours.reshape(BLOCK_GRID, BLOCK_GRID, 4), size, interpolation=cv2.INTER_NEAREST_EXACT
    )
    mixed = cv2.addWeighted(image, 0.5, np.ascontiguousarray(grid[..., :3]), 0.5, 0)
    return np.where(grid[..., 3:] == 1, mixed, image)


def _fog(image: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_fog(image, density, rng)


def _rain(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_rain(image, amount, _scaled(image, 1.0), rng)


def _snow(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_snow(image, amount, _scaled(image, 1.0), rng)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# In the order in which things happen to a picture: the scene, then the camera, then the file.
# Levels: what the number means stands behind each.
CORRUPTIONS: dict[str, Corruption] = {
    "fog": Corruption("weather", _fog, (0.2, 0.3, 0.4, 0.5, 0.6)),  # mean opacity
    "rain": Corruption("weather", _rain, (0.1, 0.2, 0.35, 0.5, 0.7)),  # amount, 0-1
    "snow": Corruption("weather", _snow, (0.1, 0.2, 0.35, 0.5, 0.7)),  # amount, 0-1
    "brighten": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_brightness), (1.15, 1.3, 1.5, 1.75, 2.1)
    ),
    "darken": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_brightness), (0.75, 0.6, 0.45, 0.33, 0.22)
    ),
    "low_contrast": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_contrast), (0.75, 0.6, 0.45, 0.33, 0.22)
    ),
    "high_contrast": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_contrast), (1.4, 1.8, 2.3, 2.9, 3.6)
    ),
    "desaturate": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_saturation), (0.7, 0.5, 0.3, 0.15, 0.0)
    ),
    "saturate": Corruption(  # factor
        "colour", _ignoring_rng(views.adjust_saturation), (1.5, 2.0, 2.6, 3.3, 4.0)
    ),
    "hue": Corruption("colour", _hue, (8, 16, 26, 40, 60)),  # degrees
    "colour_cast": Corruption("colour", _colour_cast, (0.08, 0.14, 0.22, 0.3, 0.4)),  # gain +- this
    "posterise": Corruption("colour", _posterise, (6, 5, 4, 3, 2)),  # bits
    "block_dropout": Corruption("block", _block_dropout, (0.02, 0.04, 0.06, 0.09, 0.13)),  # share
    "block_colour": Corruption("block", _block_colour, (0.05, 0.1, 0.2, 0.3, 0.45)),  # share
    "sharpen": Corruption(  # factor
        "edge", _ignoring_rng(views.adjust_sharpness), (2.0, 3.5, 5.0, 7.5, 10.0)
    ),
    "edge_overlay": Corruption("edge", _edge_overlay, (0.15, 0.3, 0.45, 0.6, 0.8)),  # strength
    "average_pool": Corruption("pooling", _average_pool, (3, 4, 6, 8, 11)),  # side, pixels
    "max_pool": Corruption("pooling", _max_pool, (3, 5, 7, 9, 13)),  # side, pixels
    "min_pool": Corruption("pooling", _min_pool, (3, 5, 7, 9, 13)),  # side, pixels
    "median": Corruption("pooling", _median, (3, 5, 9, 13, 19)),  # side, pixels
    "gaussian_blur": Corruption("blur", _gaussian_blur, (1.0, 1.8, 2.6, 3.6, 5.0)),  # sigma, pixels
    "motion_blur": Corruption("blur", _motion_blur, (7, 13, 19, 27, 37)),  # length, pixels
    "defocus": Corruption("blur", _defocus, (2, 3, 4.5, 6.5, 9)),  # radius, pixels
    "gaussian_noise": Corruption("noise", views.add_gaussian_noise, (8, 14, 22, 32, 45)),  # sigma
    "salt_pepper": Corruption(  # share of pixels
        "noise", views.add_salt_pepper, (0.005, 0.01, 0.02, 0.04, 0.08)
    ),
    "speckle": Corruption("noise", _speckle, (0.08, 0.14, 0.2, 0.28, 0.38)),  # relative sigma
    "shot_noise": Corruption("noise", _shot_noise, (120, 70, 40, 22, 12)),  # photons at white
    "jpeg": Corruption("compression", jpeg, (60, 40, 25, 15, 8)),  # quality
}

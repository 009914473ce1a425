"""Photometric augmentation, and the two contrastive views of one image.

docs/methods.md#comics-views.

The paper lists colour jitter of brightness, contrast, saturation and sharpness (each with
probability 0.5), grey-scale, random blocking (10 x 10 chunks, 2-6 % of them blanked), Gaussian and
salt-and-pepper noise, and down-scaling to 1/4 and back. The other probabilities and all ranges
are not given (reconstructed: keys under INPUT.VIEWS), nor is the order (decision: the one of
``PhotometricView``: colour, loss of resolution, noise, blanked chunks).

Images are [H, W, 3] uint8 RGB; no function changes its argument, and none changes geometry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from fvcore.common.config import CfgNode

# What makes a view: ``(image, rng) -> image`` of the same size
View = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13  # Pillow's SMOOTH


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by ``factor``: 0 black, 1 unchanged."""
    return _blend(image, np.zeros_like(image), factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the mean grey value by ``factor``: 0 flat grey, 1 unchanged."""
    mean = round(float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()))
    return _blend(image, np.full_like(image, mean), factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from each pixel's own grey by ``factor``: 0 grey, 1 unchanged."""
    return _blend(image, to_gray(image), factor)


def adjust_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from a smoothed copy by ``factor``: 0 smooth, 1 unchanged."""
    return _blend(image, cv2.filter2D(image, -1, _SMOOTH), factor)


def shift_hue(image: np.ndarray, share: float) -> np.ndarray:
    """Turn the hue by ``share`` of the colour circle; 0 or 1 changes nothing but rounding."""
    turned = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    turned[..., 0] += np.uint8(round(share * 256) % 256)  # wraps around, as hues do
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)


def to_gray(image: np.ndarray) -> np.ndarray:
    """Luma (ITU-R BT.601) in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def down_up(image: np.ndarray, factor: int) -> np.ndarray:
    """Shrink to 1/``factor`` (area average) and interpolate back bilinearly."""
    height, width = image.shape[:2]
    small = (max(1, width // factor), max(1, height // factor))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)


def add_gaussian_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent noise of standard deviation ``sigma`` (0-255 scale) to every value."""
    # OpenCV's own generator, seeded by ours: four times as fast as numpy's
    cv2.setRNGSeed(int(rng.integers(2**31)))
    noise = np.empty(image.shape, dtype=np.int16)
    cv2.randn(noise, np.zeros(4), np.full(4, float(sigma)))  # of OpenCV's four channels
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def add_salt_pepper(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Set ``share`` of the pixels (drawn with repetition) to white or black, half each."""
    height, width = image.shape[:2]
    places = rng.integers(height * width, size=round(share * height * width))
    result = image.copy()
    values = rng.integers(2, size=len(places), dtype=np.uint8) * 255
    result.reshape(-1, 3)[places] = values[:, None]
    return result


def blank_chunks(image: np.ndarray, grid: int, chunks: np.ndarray) -> np.ndarray:
    """Set chunks of a ``grid`` x ``grid`` division to black; ``chunks``: numbers, row by row."""
    rows = np.linspace(0, image.shape[0], grid + 1).round().astype(int)
    columns = np.linspace(0, image.shape[1], grid + 1).round().astype(int)
    result = image.copy()
    for chunk in chunks:
        row, column = divmod(int(chunk), grid)
        result[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 0
    return result


@dataclass(frozen=True)
class PhotometricView:
    """Draws and applies one view; attributes are the keys of INPUT.VIEWS.

    Attributes:
        jitter_prob: probability of each of brightness, contrast, saturation and sharpness.
        jitter: their factor is drawn from 1 +- this.
        gray_prob: probability of grey-scale.
        block_prob, block_grid, block_share: blanked chunks: probability, chunks per side, range of
            the share blanked.
        gaussian_prob, gaussian_sigma: noise: probability, range of its standard deviation.
        salt_pepper_prob, salt_pepper_share: probability, range of the share of pixels.
        downscale_prob, downscale: probability, and factor, of the loss of resolution.
    """

    jitter_prob: float = 0.5
    jitter: float = 0.4
    gray_prob: float = 0.2
    block_prob: float = 0.2
    block_grid: int = 10
    block_share: tuple[float, float] = (0.02, 0.06)
    gaussian_prob: float = 0.2
    gaussian_sigma: tuple[float, float] = (2.0, 15.0)
    salt_pepper_prob: float = 0.2
    salt_pepper_share: tuple[float, float] = (0.001, 0.02)
    downscale_prob: float = 0.2
    downscale: int = 4

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PhotometricView:
        """From INPUT.VIEWS."""
        views = cfg.INPUT.VIEWS
        return cls(
            jitter_prob=views.JITTER_PROB,
            jitter=views.JITTER,
            gray_prob=views.GRAY_PROB,
            block_prob=views.BLOCK_PROB,
            block_grid=views.BLOCK_GRID,
            block_share=tuple(views.BLOCK_SHARE),
            gaussian_prob=views.GAUSSIAN_PROB,
            gaussian_sigma=tuple(views.GAUSSIAN_SIGMA),
            salt_pepper_prob=views.SALT_PEPPER_PROB,
            salt_pepper_share=tuple(views.SALT_PEPPER_SHARE),
            downscale_prob=views.DOWNSCALE_PROB,
            downscale=views.DOWNSCALE,
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One view of [H, W, 3] uint8 RGB, same size; the argument itself if nothing is drawn."""
        for adjust in (adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness):
            if rng.random() < self.jitter_prob:
                image = adjust(image, rng.uniform(1 - self.jitter, 1 + self.jitter))
        if rng.random() < self.gray_prob:
            image = to_gray(image)
        if rng.random() < self.downscale_prob:
            image = down_up(image, self.downscale)
        if rng.random() < self.gaussian_prob:
            image = add_gaussian_noise(image, rng.uniform(*self.gaussian_sigma), rng)
        if rng.random() < self.salt_pepper_prob:
            image = add_salt_pepper(image, rng.uniform(*self.salt_pepper_share), rng)
        if rng.random() < self.block_prob:
            image = blank_chunks(image, self.block_grid, self._draw_chunks(rng))
        return image

    def _draw_chunks(self, rng: np.random.Generator) -> np.ndarray:
        total = self.block_grid**2
        return rng.choice(total, round(rng.uniform(*self.block_share) * total), replace=False)


def _blend(image: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """``factor * image + (1 - factor) * other``, rounded and cut to 0..255."""
    return cv2.addWeighted(image, factor, other, 1 - factor, 0)

"""Views of contrastive learning: random resized crops, strong colour changes, grey, blur.

docs/methods.md#realcentric-views. Two views of one picture must share what tells the classes apart
and little else; without the crop they are near duplicates.

Images are [S, S, 3] uint8 RGB; no function changes its argument. Shape letters: S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from comics.data.faces.views import Augmentation, FaceAugmenter
from comics.data.views import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    shift_hue,
    to_gray,
)

BLUR_SIDE = 224  # pixels of the crop that the blur's standard deviation is stated for


@dataclass(frozen=True)
class ContrastivePhotometry:
    """Colour jitter as a whole, grey, blur; attributes are keys of REAL_CENTRIC.VIEWS."""

    jitter_prob: float
    jitter: float
    hue: float
    gray_prob: float
    blur_prob: float
    blur_sigma: tuple[float, float]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One draw of them."""
        if rng.random() < self.jitter_prob:
            for adjust in (adjust_brightness, adjust_contrast, adjust_saturation):
                image = adjust(image, rng.uniform(1 - self.jitter, 1 + self.jitter))
            image = shift_hue(image, rng.uniform(-self.hue, self.hue))
        if rng.random() < self.gray_prob:
            image = to_gray(image)
        if rng.random() < self.blur_prob:
            sigma = rng.uniform(*self.blur_sigma) * image.shape[0] / BLUR_SIDE
            image = cv2.GaussianBlur(image, (0, 0), max(sigma, 0.01))
        return image


@dataclass(frozen=True)
class ContrastiveViews:
    """Draws them on top of ``base``, whose own colour changes they replace.

    Attributes:
        base: gives the mirror image, and what INPUT.FACE does to a window.
        photometry: colour changes and blur.
        area: share of the crop that is kept, drawn from this range.
        aspect: width over height of what is kept, drawn evenly in octaves.
    """

    base: FaceAugmenter
    photometry: ContrastivePhotometry
    area: tuple[float, float]
    aspect: tuple[float, float]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ContrastiveViews:
        """From MODEL.FACE.REAL_CENTRIC.VIEWS and INPUT.FACE.

        Raises:
            ValueError: for an area outside of (0, 1].
        """
        views = cfg.MODEL.FACE.REAL_CENTRIC.VIEWS
        low, high = views.AREA
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"REAL_CENTRIC.VIEWS.AREA must be a range in (0, 1], got {[low, high]}"
            )
        photometry = ContrastivePhotometry(
            jitter_prob=views.JITTER_PROB,
            jitter=views.JITTER,
            hue=views.HUE,
            gray_prob=views.GRAY_PROB,
            blur_prob=views.BLUR_PROB,
            blur_sigma=tuple(views.BLUR_SIGMA),
        )
        base = FaceAugmenter.from_config(cfg)
        return cls(base, photometry, (low, high), tuple(views.ASPECT))

    def draw(self, rng: np.random.Generator) -> Augmentation:
        """One view."""
        return replace(
            self.base.draw(rng),
            part=self._part(rng),
            photometry=(self.photometry, int(rng.integers(2**31))),
        )

    def _part(self, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what is kept, as shares of the crop's side."""
        area = rng.uniform(*self.area)
        ratio = float(np.exp(rng.uniform(*np.log(self.aspect))))
        # Not wider or higher than the crop: the ratio gives way, the area stays
        width = float(np.clip(np.sqrt(area * ratio), area, 1.0))
        height = area / width
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        return left, top, left + width, top + height

"""What pictures go through on their way: resampling, blur, noise, one or two lossy codecs.

Drawn the same for real and forged faces, so that a method cannot tell them apart by the size of a
picture or by its last compression. Applied to the window of a face at its own resolution, before it
is resized to the crop that a method sees.

Images are [H, W, 3] uint8 RGB, of any size; no function changes its argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from comics.data.forgery.history import jpeg_round_trip
from comics.data.views import add_gaussian_noise

INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
LEAST_SIDE = 8  # pixels; nothing is shrunk below


@dataclass(frozen=True)
class Degradation:
    """Draws and applies one history; attributes are the keys of INPUT.FACE.DEGRADE.

    Attributes:
        prob: probability that anything is done at all.
        resize_prob, sides: probability of resampling; range of the longer side after it, pixels,
            drawn evenly in octaves; nothing grows by more than ``growth``.
        growth: largest factor of enlargement.
        blur_prob, blur_sigma: of a Gaussian blur; range of its standard deviation, pixels.
        noise_prob, noise_sigma: of Gaussian noise; range of its standard deviation, 0-255 scale.
        codec_prob, again_prob: of a first lossy codec, and of a second one after it.
        quality: range of the quality of both, 1-100.
        webp_share: share of the codecs that is WebP; the others are JPEG.
    """

    prob: float
    resize_prob: float
    sides: tuple[float, float]
    growth: float
    blur_prob: float
    blur_sigma: tuple[float, float]
    noise_prob: float
    noise_sigma: tuple[float, float]
    codec_prob: float
    again_prob: float
    quality: tuple[float, float]
    webp_share: float

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Degradation:
        """From INPUT.FACE.DEGRADE."""
        keys = cfg.INPUT.FACE.DEGRADE
        return cls(
            prob=keys.PROB,
            resize_prob=keys.RESIZE_PROB,
            sides=tuple(keys.SIDES),
            growth=keys.GROWTH,
            blur_prob=keys.BLUR_PROB,
            blur_sigma=tuple(keys.BLUR_SIGMA),
            noise_prob=keys.NOISE_PROB,
            noise_sigma=tuple(keys.NOISE_SIGMA),
            codec_prob=keys.CODEC_PROB,
            again_prob=keys.AGAIN_PROB,
            quality=tuple(keys.QUALITY),
            webp_share=keys.WEBP_SHARE,
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One history of a picture; the argument itself if nothing is drawn."""
        if rng.random() >= self.prob:
            return image
        if rng.random() < self.resize_prob:
            image = self._resized(image, rng)
        if rng.random() < self.blur_prob:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.blur_sigma))
        if rng.random() < self.noise_prob:
            image = add_gaussian_noise(image, rng.uniform(*self.noise_sigma), rng)
        if rng.random() < self.codec_prob:
            image = self._encoded(image, rng)
            if rng.random() < self.again_prob:
                image = self._encoded(image, rng)
        return image

    def _resized(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        side = np.exp(rng.uniform(*np.log(self.sides)))
        factor = min(side / max(height, width), self.growth)
        size = [max(LEAST_SIDE, round(length * factor)) for length in (width, height)]
        method = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
        if factor > 1 and method == cv2.INTER_AREA:  # which is nearest neighbour then
            method = cv2.INTER_LINEAR
        return cv2.resize(image, size, interpolation=method)

    def _encoded(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        quality = round(rng.uniform(*self.quality))
        if rng.random() < self.webp_share:
            return webp_round_trip(image, quality)
        return jpeg_round_trip(image, quality)


def webp_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    """[H, W, 3] uint8 RGB after saving and reading as lossy WebP of that quality, 1-100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, buffer = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, int(quality)])
    if not done:
        raise ValueError(f"an image of shape {image.shape} could not be written as WebP")
    decoded = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    assert decoded is not None  # what was just encoded
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

"""Self-blended images (Shiohara and Yamasaki 2022): a face blended with a changed copy of itself.

Source and target are one face. One of the two changes colour and sharpness, the source moves by a
few per cent, and both are blended inside a deformed hull of the face. Nothing else tells the blend
from the target, so what a classifier learns are the signs of blending and not of one generator.
Where the target is the one that changes, the pair's real picture is the changed target: real and
blend share every pixel outside the mask.

Numbers are the paper's and its released settings where they state them; lengths, which belong to
crops of about 224 pixels there, scale with the face. The released shift of hue, saturation and
value, 0.3 of a grey level, changes nothing; ours are relative (decision).

Shape letters: h, w window or crop around one face; patches are float32 RGB, 0-255.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from comics.data.forgery.blending import alpha_blend, poisson_patch
from comics.data.forgery.masks import face_roll, hull_region, inner_region

REFERENCE_SIDE = 224  # pixels of the pictures that blur kernels belong to
FIRST_KERNEL, SECOND_KERNEL = (5, 25), (5, 45)  # pixels of such a picture, odd
GROWTH = (-0.08, 0.05)  # of the mask's edge, in sizes of the face: erosion to dilation
ELASTIC_CELLS, ELASTIC = 12, 0.008  # cells of the field per side; deviation in sizes of the face
SHARPEN, LIGHTNESS = (0.2, 0.5), (0.5, 1.0)  # share of the sharpened picture; weight of its centre
SHAPES = ("region", "inner", "polygon", "lower", "upper")
LANDMARK_SHAPES = ("hull", "features")  # drawn as well where 68 landmarks are known


@dataclass(frozen=True)
class SelfBlending:
    """Ranges that are drawn from; keys of INPUT.FACE.SELF_BLEND.

    Attributes:
        rgb_shift, rgb_prob: grey levels +- of each colour, and how often they shift.
        hue: degrees +-.
        saturation, value, brightness, contrast: relative +-.
        downscale: factors; the alternative is sharpening, half and half.
        shift: across and along, shares of the picture's width and height +-.
        scale: smallest; the largest is its inverse.
        ratios: weights of the source, one is drawn.
        poisson_prob: of gradient-domain blending instead of alpha.

    Raises:
        ValueError: for a value out of range.
    """

    rgb_shift: float = 20.0
    rgb_prob: float = 0.3
    hue: float = 3.0
    saturation: float = 0.3
    value: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.1
    downscale: tuple[int, ...] = (2, 4)
    shift: tuple[float, float] = (0.03, 0.015)
    scale: float = 0.95
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    poisson_prob: float = 0.2

    def __post_init__(self) -> None:
        for name in ("rgb_prob", "poisson_prob", "saturation", "value", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios must be in (0, 1], got {self.ratios}")
        if not self.downscale or min(self.downscale) < 1:
            raise ValueError(f"downscale must be factors of 1 or more, got {self.downscale}")
        if not 0 < self.scale <= 1 or min(self.shift) < 0 or self.rgb_shift < 0 or self.hue < 0:
            raise ValueError(f"scale, shift, rgb_shift or hue cannot be used: {self}")


@dataclass(frozen=True)
class BlendedPair:
    """A real picture and its blend.

    Attributes:
        real, blend: [h, w, 3] uint8 RGB; equal where ``soft`` is 0.
        soft: [h, w] float32 in [0, 1], weight of the source.
        record: what was drawn, ready for JSON.
    """

    real: np.ndarray
    blend: np.ndarray
    soft: np.ndarray
    record: dict


def self_blended_pair(
    image: np.ndarray,
    region: np.ndarray,
    keypoints: np.ndarray,
    rng: np.random.Generator,
    ranges: SelfBlending,
    landmarks: np.ndarray | None = None,
) -> BlendedPair:
    """A face and its self-blended image; source or target is the one that changes.

    Args:
        image: [h, w, 3] uint8 RGB.
        region: [h, w] bool, the face.
        keypoints: [5, 2] in pixels of the image.
        rng: random source.
        ranges: what to draw from.
        landmarks: [68, 2] in the iBUG order, where known.
    """
    changed, record = change_colour(image.astype(np.float32), rng, ranges)
    changed = np.clip(np.rint(changed), 0, 255)
    source, real = changed, image
    record["changed"] = "source"
    if rng.random() < 0.5:
        source, real = image.astype(np.float32), changed.astype(np.uint8)
        record["changed"] = "target"
    source, soft, geometry = moved_source(source, region, keypoints, rng, ranges, landmarks)
    ratio = float(rng.choice(ranges.ratios))
    poisson = bool(rng.random() < ranges.poisson_prob)
    if poisson and (soft > 0).any():
        source = poisson_patch(source, real, soft)
    soft = soft * np.float32(ratio)
    record |= geometry | {"ratio": ratio, "poisson": poisson}
    return BlendedPair(real, alpha_blend(source, real, soft), soft, record)


def change_colour(
    patch: np.ndarray, rng: np.random.Generator, ranges: SelfBlending
) -> tuple[np.ndarray, dict]:
    """Colours shifted, then down-scaled or sharpened: [h, w, 3] float32, and what was drawn."""
    shift = np.zeros(3)
    if rng.random() < ranges.rgb_prob:
        shift = rng.uniform(-ranges.rgb_shift, ranges.rgb_shift, 3)
    hue = rng.uniform(-ranges.hue, ranges.hue)
    saturation = 1 + rng.uniform(-ranges.saturation, ranges.saturation)
    value = 1 + rng.uniform(-ranges.value, ranges.value)
    brightness = rng.uniform(-ranges.brightness, ranges.brightness)
    contrast = 1 + rng.uniform(-ranges.contrast, ranges.contrast)
    unit = np.clip(patch + shift.astype(np.float32), 0, 255) / np.float32(255)
    hsv = cv2.cvtColor(unit, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] * value, 0, 1)
    toned = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * contrast + brightness
    patch = (np.clip(toned, 0, 1) * 255).astype(np.float32)
    record = {
        "rgb_shift": [round(float(part), 1) for part in shift],
        "hsv": [round(float(part), 3) for part in (hue, saturation, value)],
        "brightness": round(float(brightness), 3),
        "contrast": round(float(contrast), 3),
    }
    if rng.random() < 0.5:
        factor = int(rng.choice(ranges.downscale))
        height, width = patch.shape[:2]
        small = (max(1, width // factor), max(1, height // factor))
        low = cv2.resize(patch, small, interpolation=cv2.INTER_AREA)
        patch = cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)
        return patch, record | {"downscale": factor}
    share, lightness = float(rng.uniform(*SHARPEN)), float(rng.uniform(*LIGHTNESS))
    kernel = np.full((3, 3), -share, np.float32)
    kernel[1, 1] = 1 - share + share * (8 + lightness)
    return cv2.filter2D(patch, -1, kernel), record | {"sharpen": round(share, 3)}


def moved_source(
    source: np.ndarray,
    region: np.ndarray,
    keypoints: np.ndarray,
    rng: np.random.Generator,
    ranges: SelfBlending,
    landmarks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Source and hull mask moved together; the mask bent and blurred besides.

    Returns:
        The source [h, w, 3] float32, the mask [h, w] float32 in [0, 1], and what was drawn.
    """
    hull, shape = draw_hull(region, keypoints, rng, landmarks)
    height, width = region.shape
    dx = rng.uniform(-ranges.shift[0], ranges.shift[0]) * width
    dy = rng.uniform(-ranges.shift[1], ranges.shift[1]) * height
    scale = float(np.exp(rng.uniform(np.log(ranges.scale), -np.log(ranges.scale))))
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - scale * centre + (dx, dy)
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    source = cv2.warpAffine(source, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.warpAffine(hull.astype(np.float32), matrix, (width, height))
    mask = _blurred(_bent(mask, region, rng), rng)
    record = {
        "shape": shape,
        "shift": [round(dx / width, 4), round(dy / height, 4)],
        "scale": round(scale, 4),
    }
    return source, mask, record


def draw_hull(
    region: np.ndarray,
    keypoints: np.ndarray,
    rng: np.random.Generator,
    landmarks: np.ndarray | None = None,
) -> tuple[np.ndarray, str]:
    """A mask [h, w] bool of drawn shape, grown or shrunk by a drawn width; and the shape's name."""
    shapes = SHAPES if landmarks is None else SHAPES + LANDMARK_SHAPES
    shape = str(rng.choice(shapes))
    inner = inner_region(region, keypoints, rng)
    if shape == "region":
        hull = region
    elif shape == "polygon":
        hull = _polygon(inner, rng)
    elif shape in ("lower", "upper"):
        hull = inner & _half(region.shape, keypoints, shape == "lower")
    elif landmarks is not None and shape == "hull":
        hull = hull_region(region.shape, landmarks)
    elif landmarks is not None and shape == "features":
        points = np.rint(cv2.convexHull(landmarks[17:].astype(np.float32))).astype(np.int32)
        canvas = np.zeros(region.shape, np.uint8)
        hull = cv2.fillConvexPoly(canvas, points, 1).astype(bool)
    else:
        hull = inner
    if not hull.any():
        return region, "region"
    grown = _signed_distance(hull) > -rng.uniform(*GROWTH) * np.sqrt(region.sum())
    return (grown if grown.any() else hull), shape


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """[h, w] pixels to the mask's edge, positive inside."""
    outside = (~mask).astype(np.uint8)
    if not outside.any():
        return np.full(mask.shape, float(max(mask.shape)))
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return inside - cv2.distanceTransform(outside, cv2.DIST_L2, 5)


def _polygon(inner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hull of points drawn inside a region's bounds: corners as blends from few landmarks have."""
    rows, columns = np.nonzero(inner)
    if not len(rows):
        return inner
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(6, 11))))
    radii = rng.uniform(0.7, 1.05, len(angles))
    x = (columns.min() + columns.max()) / 2 + np.cos(angles) * radii * np.ptp(columns) / 2
    y = (rows.min() + rows.max()) / 2 + np.sin(angles) * radii * np.ptp(rows) / 2
    points = cv2.convexHull(np.stack([x, y], 1).astype(np.float32))
    canvas = np.zeros(inner.shape, np.uint8)
    return cv2.fillConvexPoly(canvas, np.rint(points).astype(np.int32), 1).astype(bool)


def _half(shape: tuple[int, int], keypoints: np.ndarray, lower: bool) -> np.ndarray:
    """Half plane below the bridge of the nose, or above the mouth, turned with the face."""
    roll = face_roll(keypoints)
    y = np.arange(shape[0])[:, None] + 0.5
    along = y * np.cos(roll) - (np.arange(shape[1]) + 0.5) * np.sin(roll)
    eyes, mouth = keypoints[:2].mean(0), keypoints[3:].mean(0)
    border = eyes + (mouth - eyes) * (0.3 if lower else 0.75)
    level = border[1] * np.cos(roll) - border[0] * np.sin(roll)
    return along >= level if lower else along <= level


def _bent(mask: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask under a smooth random displacement."""
    height, width = mask.shape
    amount = np.float32(ELASTIC * np.sqrt(region.sum()))
    cells = rng.standard_normal((2, ELASTIC_CELLS, ELASTIC_CELLS), dtype=np.float32) * amount
    field = [cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in cells]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(mask, x + field[0], y + field[1], cv2.INTER_LINEAR)


def _blurred(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, keep what is still full, blur again: soft edges on the inner side of the hull."""
    first, second = (
        _kernel(int(rng.integers(low // 2, high // 2 + 1)) * 2 + 1, mask.shape)
        for low, high in (FIRST_KERNEL, SECOND_KERNEL)
    )
    full = cv2.GaussianBlur(mask, (first, first), 0)
    kept = np.where(full >= full.max() - 1e-3, full, 0) if full.max() > 0 else mask
    soft = cv2.GaussianBlur(kept.astype(np.float32), (second, second), 0)
    return soft / max(float(soft.max()), 1e-6)


def _kernel(size: int, shape: tuple[int, int]) -> int:
    """An odd kernel for pictures of REFERENCE_SIDE at the scale of ``shape``."""
    return max(1, round((size - 1) / 2 * max(shape) / REFERENCE_SIDE)) * 2 + 1

"""The corruptions of OpenForensics' challenge set: mixtures of four levels, and subsets of them.

Kinds, ranges and how they are mixed are those that the set's authors published
(docs/methods.md#challenge-levels); the code is our own, and where theirs calls a library whose
result cannot be told from its numbers (weather, frost, super-pixels), ours is a stand-in. Which of
the levels made Test-Challenge is not stated: the level is drawn, each as often.

Lengths are pixels, as published, and do not scale with the image: what they blur and drown are
traces, which are pixels wide in pictures of any size. Images are [H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from comics.data import views, weather
from comics.data.synthetic_face import fractal_noise

LEVELS = (1, 2, 3, 4)
# What the subsets of a challenge set are made of; the whole set, "all", has every kind
SUBSETS: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "named": ("colour", "noise", "block"),  # what the paper of COMICS names
    "degraded": ("blur", "compression", "pooling"),
    "weather": ("weather",),
}
FROST_COLOUR = np.array([225, 235, 245], np.float32)
CLOUD_COLOUR = np.array([235, 235, 235], np.float32)
# The published shares mix a picture with the same in fog, which is itself not opaque (decision)
FOG_OPACITY, CLOUD_OPACITY, FROST_OPACITY = 0.5, 0.7, 0.5
BLOCK_CELLS = (10, 20)  # per side: blanked blocks are 5 to 10 % of a side
GLASS_ROUNDS = 2  # of exchanging neighbours
ZOOM_STEPS = 6  # copies of a picture that a zoom adds up

Function = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Step:
    """One corruption of a mixture.

    Attributes:
        name: a key of ``OPERATIONS``.
        tag: its kind.
        value: how strong, in the operation's own unit.
    """

    name: str
    tag: str
    value: float

    @property
    def record(self) -> dict:
        """Ready for JSON."""
        return {"name": self.name, "tag": self.tag, "value": self.value}


@dataclass(frozen=True)
class Operation:
    """A corruption: its kind, ``(image, value, rng) -> image``, whether values are whole."""

    tag: str
    function: Function
    whole: bool = False


@dataclass(frozen=True)
class Group:
    """``count`` of the families are drawn, and of each one operation."""

    families: tuple[Ranges, ...]
    count: tuple[int, int] = (1, 1)

    def only(self, tags: Collection[str]) -> Group:
        """Without the operations of other kinds; empty families go."""
        kept = (_of_tags(family, tags) for family in self.families)
        return Group(tuple(family for family in kept if family), self.count)

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """The steps, in the order in which they happen."""
        count = min(_between(rng, self.count), len(self.families))
        return [_one_of(self.families[i], rng) for i in rng.permutation(len(self.families))[:count]]


Stage = tuple[tuple[int, int], tuple[Group, ...]]  # so many of the groups


def draw_mixture(
    rng: np.random.Generator, level: int | None = None, tags: Collection[str] = ()
) -> tuple[int, list[Step]]:
    """A mixture, as the authors draw it.

    Args:
        rng: all randomness comes from it.
        level: 1 (lowest) to 4; None draws one.
        tags: kinds that it may have, () for all. Of a level's groups those without any are left
            out, and where nothing is drawn the draw is repeated.

    Returns:
        The level and its steps, in the order in which they happen; at least one.

    Raises:
        ValueError: for an unknown level or kind.
    """
    if level is not None and level not in LEVELS:
        raise ValueError(f"level is one of {LEVELS}, not {level!r}")
    known = {operation.tag for operation in OPERATIONS.values()}
    if not set(tags) <= known:
        raise ValueError(f"kinds are {', '.join(sorted(known))}, got {', '.join(sorted(tags))}")
    level = int(rng.choice(LEVELS)) if level is None else level
    ways = [kept for way in _LEVELS[level - 1] if (kept := _only(way, tags))]
    while True:
        way = ways[int(rng.integers(len(ways)))]
        steps = [step for stage in way for step in _draw_stage(stage, rng)]
        if steps:
            return level, steps


def apply_mixture(image: np.ndarray, steps: Sequence[Step], rng: np.random.Generator) -> np.ndarray:
    """The steps one after the other: [H, W, 3] uint8, same size; ``image`` is not changed.

    Raises:
        KeyError: for a step of an unknown name.
    """
    for step in steps:
        image = OPERATIONS[step.name].function(image, step.value, rng)
    return image


@dataclass(frozen=True)
class ChallengeView:
    """A training view that knows the test: an oracle, to be compared with, is trained on it.

    Attributes:
        share: probability of a mixture, of a drawn one of ``SUBSETS``; else the image stays.
    """

    share: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One view of [H, W, 3] uint8 RGB, same size."""
        if rng.random() >= self.share:
            return image
        tags = list(SUBSETS.values())[int(rng.integers(len(SUBSETS)))]
        return apply_mixture(image, draw_mixture(rng, tags=tags)[1], rng)


# -- drawing --------------------------------------------------------------------------------------


def _draw_stage(stage: Stage, rng: np.random.Generator) -> list[Step]:
    (low, high), groups = stage
    count = min(_between(rng, (low, high)), len(groups))
    return [step for i in rng.permutation(len(groups))[:count] for step in groups[i].draw(rng)]


def _only(way: Sequence[Stage], tags: Collection[str]) -> list[Stage]:
    """A way to mix without other kinds than ``tags``; empty if none of them is in it."""
    if not tags:
        return list(way)
    kept = []
    for count, groups in way:
        own = tuple(group for each in groups if (group := each.only(tags)).families)
        if own:
            kept.append((count, own))
    return kept


def _of_tags(family: Ranges, tags: Collection[str]) -> dict[str, tuple[float, float]]:
    return {name: ends for name, ends in family.items() if OPERATIONS[name].tag in tags}


def _one_of(family: Ranges, rng: np.random.Generator) -> Step:
    names = list(family)
    name = names[int(rng.integers(len(names)))]
    low, high = family[name]
    operation = OPERATIONS[name]
    if operation.whole:
        value: float = _between(rng, (int(low), int(high)))
    else:
        value = round(float(rng.uniform(low, high)), 4)
    return Step(name, operation.tag, value)


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1], endpoint=True))


# -- colour ---------------------------------------------------------------------------------------


def _hue(image: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    return views.shift_hue(image, degrees / 360)


def _channel_shift(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Up to ``amount`` grey levels are added, by channel or to all alike."""
    size = 3 if rng.random() < 0.5 else 1
    return _to_uint8(image + rng.uniform(-amount, amount, size))


def _channel_gain(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    size = 3 if rng.random() < 0.5 else 1
    return _to_uint8(image * rng.uniform(1 - amount, 1 + amount, size))


def _temperature(image: np.ndarray, kelvin: float, rng: np.random.Generator) -> np.ndarray:
    """The light of a black body instead of one of 6500 K (fit by T. Helland, 2012)."""
    gains = _black_body(kelvin) / _black_body(6500.0)
    return _to_uint8(image * gains)


def _black_body(kelvin: float) -> np.ndarray:
    t = kelvin / 100
    red = 255.0 if t <= 66 else 329.699 * (t - 60) ** -0.1332
    green = 99.471 * np.log(t) - 161.12 if t <= 66 else 288.122 * (t - 60) ** -0.0755
    blue = 255.0 if t >= 66 else 0.0 if t <= 19 else 138.518 * np.log(t - 10) - 305.045
    return np.clip([red, green, blue], 1, 255)


def _grey(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return views.adjust_saturation(image, 1 - share)


def _by_table(image: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, _to_uint8(255 * curve))


GREYS = np.arange(256) / 255  # 0 to 1


def _gamma(image: np.ndarray, exponent: float, rng: np.random.Generator) -> np.ndarray:
    return _by_table(image, GREYS**exponent)


def _sigmoid(image: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    return _by_table(image, 1 / (1 + np.exp(gain * (rng.uniform(0.4, 0.6) - GREYS))))


def _logarithm(image: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    return _by_table(image, gain * np.log2(1 + GREYS))


def _linear_contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return _by_table(image, 0.5 + factor * (GREYS - 0.5))


def _clahe(image: np.ndarray, limit: float, rng: np.random.Generator) -> np.ndarray:
    equalise = cv2.createCLAHE(clipLimit=limit, tileGridSize=(8, 8))
    return np.stack([equalise.apply(np.ascontiguousarray(c)) for c in np.moveaxis(image, 2, 0)], 2)


def _equalise(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(3)], 2)


def _quantise(image: np.ndarray, colours: float, rng: np.random.Generator) -> np.ndarray:
    """Each channel has so many values left."""
    step = 256 / colours
    return _to_uint8(np.floor(image / step) * step + step / 2)


def _invert(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Channels drawn, at least one, become negatives."""
    chosen = rng.random(3) < share
    chosen[rng.integers(3)] = True
    return np.where(chosen, 255 - image, image).astype(np.uint8)


def _solarise(image: np.ndarray, threshold: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(image >= threshold, 255 - image, image).astype(np.uint8)


# -- noise and blocks -----------------------------------------------------------------------------


def _gaussian_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return views.add_gaussian_noise(image, sigma, rng)


def _laplace_noise(image: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image + rng.laplace(0, scale, image.shape))


def _poisson_noise(image: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    signs = rng.choice([-1, 1], image.shape)
    return _to_uint8(image + signs * rng.poisson(rate, image.shape))


def _gain_noise(image: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image * rng.uniform(1 - spread, 1 + spread, image.shape))


def _impulse(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return views.add_salt_pepper(image, share, rng)


def _speckle(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image * (1 + sigma * rng.standard_normal(image.shape, dtype=np.float32)))


def _shot(image: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(rng.poisson(image * (photons / 255)) * (255 / photons))


def _dropout(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Pixels become black, in all channels or in each on its own."""
    channels = 3 if rng.random() < 0.5 else 1
    return image * (rng.random((*image.shape[:2], channels)) >= share).astype(np.uint8)


def _blocks(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Blocks of a coarse grid become black, in all channels or in each on its own."""
    cells = _between(rng, BLOCK_CELLS)
    channels = 3 if rng.random() < 0.5 else 1
    kept = (rng.random((cells, cells, channels)) >= share).astype(np.uint8)
    size = (image.shape[1], image.shape[0])
    grid = cv2.resize(kept, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return image * grid.reshape(*image.shape[:2], channels)


# -- blur and edges -------------------------------------------------------------------------------


def _gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _average(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.blur(image, (int(side), int(side)))


def _median(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.medianBlur(image, int(side) | 1)


def _motion(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    kernel = weather.line_kernel(int(length) | 1, rng.uniform(0, 180))
    return cv2.filter2D(image, -1, kernel)


def _defocus(image: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    size = 2 * round(radius) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.float32)
    return cv2.filter2D(image, -1, disk / disk.sum())


def _displaced(image: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _glass(image: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Each pixel comes from a place up to ``distance`` away, softened before and after."""
    image = cv2.GaussianBlur(image, (0, 0), 0.7)
    for _ in range(GLASS_ROUNDS):
        dx, dy = rng.integers(-int(distance), int(distance) + 1, (2, *image.shape[:2]))
        image = _displaced(image, dx.astype(np.float32), dy.astype(np.float32))
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def _zoom(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """The mean of copies enlarged about the middle by up to ``factor``."""
    height, width = image.shape[:2]
    total = image.astype(np.float32)
    for scale in np.linspace(1, factor, ZOOM_STEPS)[1:]:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, float(scale))
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        total += moved
    return _to_uint8(total / ZOOM_STEPS)


def _sharpen(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mixed with what a 3 x 3 sharpening, whose sum is drawn, makes of it."""
    kernel = np.full((3, 3), -1, np.float32)
    kernel[1, 1] = 8 + rng.uniform(0.75, 1.5)
    return cv2.addWeighted(image, 1 - share, cv2.filter2D(image, -1, kernel), share, 0)


def _edges(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mixed with its contours, white or of a drawn colour on black or another."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found = cv2.Canny(grey, 100, 200) > 0
    on, off = (np.full(3, 255), np.zeros(3)) if rng.random() < 0.5 else rng.integers(0, 256, (2, 3))
    drawn = np.where(found[..., None], on, off).astype(np.uint8)
    return cv2.addWeighted(image, 1 - share, drawn, share, 0)


def _emboss(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    strength = rng.uniform(0.5, 1)
    kernel = np.array([[-1, 0, 0], [0, 0, 0], [0, 0, 1]], np.float32) * strength
    kernel[1, 1] = 1
    return cv2.addWeighted(image, 1 - share, cv2.filter2D(image, -1, kernel), share, 0)


# -- compression and pooling ----------------------------------------------------------------------


def _jpeg(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(quality))
    return np.array(Image.open(buffer).convert("RGB"))


def _elastic(image: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Half of a picture whose pixels have moved by up to ``distance``; masks stay as they are."""
    dx, dy = rng.uniform(-distance, distance, (2, *image.shape[:2])).astype(np.float32)
    share = rng.uniform(0.4, 0.6)
    return cv2.addWeighted(image, 1 - share, _displaced(image, dx, dy), share, 0)


def _pixelate(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Shrunk to ``share`` of its sides, and enlarged without interpolation."""
    height, width = image.shape[:2]
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _average_pool(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return _pixelate(image, 1 / side, rng)


def _pool(image: np.ndarray, side: float, pick: Callable) -> np.ndarray:
    """``pick`` (of a sorted cell's values) in cells of ``side`` x ``side``."""
    side = int(side)
    height, width = image.shape[:2]
    pads = ((0, -height % side), (0, -width % side), (0, 0))
    padded = np.pad(image, pads, mode="edge")
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    cells = padded.reshape(rows, side, columns, side, 3)
    pooled = pick(cells).astype(np.uint8)
    return np.repeat(np.repeat(pooled, side, 0), side, 1)[:height, :width]


def _max_pool(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return _pool(image, side, lambda cells: cells.max((1, 3)))


def _min_pool(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return _pool(image, side, lambda cells: cells.min((1, 3)))


def _median_pool(image: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    return _pool(image, side, lambda cells: np.median(cells, (1, 3)))


def _superpixels(image: np.ndarray, segments: float, rng: np.random.Generator) -> np.ndarray:
    """Cells around ``segments`` jittered points, a drawn share of which have one colour each."""
    height, width = image.shape[:2]
    side = max(1.0, float(np.sqrt(height * width / segments)))
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    wave = [cv2.resize(rng.uniform(-0.5, 0.5, (rows, columns)).astype(np.float32), (width, height))
            for _ in range(2)]  # fmt: skip
    y = (np.arange(height)[:, None] / side + wave[0]).clip(0, rows - 1).astype(int)
    x = (np.arange(width)[None] / side + wave[1]).clip(0, columns - 1).astype(int)
    cell = (y * columns + x).ravel()
    count = np.maximum(np.bincount(cell, minlength=rows * columns), 1)
    means = [np.bincount(cell, image[..., c].ravel(), rows * columns) / count for c in range(3)]
    replaced = rng.random(rows * columns) < rng.random()
    flat = np.stack(means, 1)[cell].reshape(image.shape)
    return np.where(replaced[cell].reshape(height, width, 1), np.rint(flat), image).astype(np.uint8)


# -- weather --------------------------------------------------------------------------------------


def _fog(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_fog(image, FOG_OPACITY * share, rng)


def _clouds(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """White patches."""
    return _veil(image, CLOUD_OPACITY * share, CLOUD_COLOUR, 0.35, 0.0, rng)


def _frost(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bluish white, with sharp ridges as of ice."""
    return _veil(image, FROST_OPACITY * share, FROST_COLOUR, 0.15, 1.0, rng)


def _veil(
    image: np.ndarray,
    share: float,
    colour: np.ndarray,
    cell: float,
    ridges: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A colour over the picture, whose opacity is fractal noise from 0 to ``share``."""
    size = image.shape[:2]
    noise = fractal_noise(rng, size, cell * max(size), 5)
    noise = (1 - ridges) * noise - ridges * np.abs(noise)
    low, high = np.quantile(noise, [0.1, 0.9])
    opacity = share * np.clip((noise - low) / max(high - low, 1e-6), 0, 1)[..., None]
    return _to_uint8(image * (1 - opacity) + colour * opacity)


def _snow(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_snow(image, amount, 0.5, rng)


def _rain(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return weather.add_rain(image, amount, 0.5, rng)


def _spatter(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Drops of water or mud on ``share`` of the picture."""
    noise = fractal_noise(rng, image.shape[:2], 12, 2)
    drops = noise > np.quantile(noise, 1 - share)
    soft = cv2.GaussianBlur(drops.astype(np.float32), (0, 0), 1.0)[..., None] * 0.7
    colour = np.array([175, 205, 215] if rng.random() < 0.5 else [63, 42, 20], np.float32)
    return _to_uint8(image * (1 - soft) + colour * soft)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _factor(function: Callable[[np.ndarray, float], np.ndarray]) -> Function:
    return lambda image, value, rng: function(image, value)


# What the value means stands behind each
OPERATIONS: Mapping[str, Operation] = {
    "hue": Operation("colour", _hue),  # degrees
    "channel_shift": Operation("colour", _channel_shift),  # most grey levels
    "channel_gain": Operation("colour", _channel_gain),  # most, around 1
    "temperature": Operation("colour", _temperature),  # kelvin
    "saturation": Operation("colour", _factor(views.adjust_saturation)),  # factor
    "grey": Operation("colour", _grey),  # share
    "brightness": Operation("colour", _factor(views.adjust_brightness)),  # factor
    "gamma": Operation("colour", _gamma),  # exponent
    "sigmoid_contrast": Operation("colour", _sigmoid),  # gain
    "log_contrast": Operation("colour", _logarithm),  # gain
    "linear_contrast": Operation("colour", _linear_contrast),  # factor
    "clahe": Operation("colour", _clahe),  # clip limit
    "equalise": Operation("colour", _equalise),  # unused
    "quantise": Operation("colour", _quantise, whole=True),  # values of a channel
    "invert": Operation("inversion", _invert),  # share of the channels
    "solarise": Operation("inversion", _solarise),  # grey level
    "gain_noise": Operation("noise", _gain_noise),  # most, around 1
    "gaussian_noise": Operation("noise", _gaussian_noise),  # sigma
    "laplace_noise": Operation("noise", _laplace_noise),  # scale
    "poisson_noise": Operation("noise", _poisson_noise),  # rate
    "impulse_noise": Operation("noise", _impulse),  # share of the pixels
    "speckle_noise": Operation("noise", _speckle),  # relative sigma
    "shot_noise": Operation("noise", _shot),  # photons at white
    "dropout": Operation("noise", _dropout),  # share of the pixels
    "blocks": Operation("block", _blocks),  # share of the blocks
    "gaussian_blur": Operation("blur", _gaussian_blur),  # sigma
    "average_blur": Operation("blur", _average, whole=True),  # side
    "median_blur": Operation("blur", _median, whole=True),  # side
    "motion_blur": Operation("blur", _motion, whole=True),  # length
    "defocus_blur": Operation("blur", _defocus),  # radius
    "glass_blur": Operation("blur", _glass, whole=True),  # distance
    "zoom_blur": Operation("blur", _zoom),  # factor
    "sharpen": Operation("edge", _sharpen),  # share
    "edges": Operation("edge", _edges),  # share
    "emboss": Operation("edge", _emboss),  # share
    "jpeg": Operation("compression", _jpeg, whole=True),  # quality
    "elastic": Operation("geometry", _elastic),  # distance
    "pixelate": Operation("pooling", _pixelate),  # share of the sides
    "superpixels": Operation("pooling", _superpixels),  # number
    "average_pool": Operation("pooling", _average_pool, whole=True),  # side
    "max_pool": Operation("pooling", _max_pool, whole=True),  # side
    "min_pool": Operation("pooling", _min_pool, whole=True),  # side
    "median_pool": Operation("pooling", _median_pool, whole=True),  # side
    "fog": Operation("weather", _fog),  # share of the foggy picture
    "clouds": Operation("weather", _clouds),  # likewise
    "frost": Operation("weather", _frost),  # likewise
    "snow": Operation("weather", _snow),  # amount
    "rain": Operation("weather", _rain),  # amount
    "spatter": Operation("weather", _spatter),  # share of the picture
}

# -- the published levels -------------------------------------------------------------------------

_CONTRAST: Ranges = {"sigmoid_contrast": (3, 10), "log_contrast": (0.6, 1.4),
                     "linear_contrast": (0.5, 2.0)}  # fmt: skip
_COLOUR_1 = Group(
    ({"hue": (-30, 30), "channel_shift": (0, 30), "channel_gain": (0, 0.3)},
     {"saturation": (0.7, 1.3), "grey": (0.3, 0.7)},
     {"brightness": (0.7, 1.3)},
     _CONTRAST),
    (1, 3),
)  # fmt: skip


def _colours(grey: tuple[float, float], *contrasts: Mapping[str, tuple[float, float]]) -> Group:
    """The colours of the higher levels."""
    own: dict[str, tuple[float, float]] = {"gamma": (0.5, 2.0), **_CONTRAST}
    for more in contrasts:
        own |= more
    return Group(
        ({"hue": (-50, 50), "temperature": (1000, 10000), "channel_shift": (0, 50),
          "channel_gain": (0, 0.5)},
         {"saturation": (0.5, 1.5), "grey": grey},
         {"brightness": (0.5, 1.5)},
         own),
        (1, 3),
    )  # fmt: skip


_CLAHE: Ranges = {"clahe": (1, 3)}
_SHARPER: Ranges = {"sharpen": (0.1, 0.4), "edges": (0.05, 0.2), "emboss": (0.3, 0.6)}
_POOLS: Ranges = {"superpixels": (5000, 8000), "average_pool": (2, 5), "max_pool": (2, 5),
                  "min_pool": (2, 5), "median_pool": (2, 5)}  # fmt: skip
# JPEG's severities 1 to 5 are the qualities 25, 18, 15, 10 and 7; pixelation's 2 to 4 0.5 to 0.3
_RECODED: Ranges = {"elastic": (1, 4), "jpeg": (7, 25), "pixelate": (0.3, 0.5),
                    "quantise": (2, 16)}  # fmt: skip
_NOISES: Ranges = {"gaussian_noise": (5, 20), "laplace_noise": (5, 20), "poisson_noise": (5, 15),
                   "dropout": (0.01, 0.1)}  # fmt: skip
_BLOCKS: Ranges = {"blocks": (0.04, 0.08)}


def _weather(low: float, high: float, snow: float) -> Group:
    """What hides, and what falls."""
    return Group((
        {"fog": (low, high), "frost": (0.8, 0.9), "clouds": (low, high)},
        {"snow": (0.1, snow), "spatter": (0.02, 0.08), "rain": (0.1, 0.35)},
    ))  # fmt: skip


_LEVELS: tuple[tuple[tuple[Stage, ...], ...], ...] = (
    ((((1, 2), (
        _COLOUR_1,
        Group(({"gain_noise": (0, 0.2), "gaussian_noise": (0, 20), "gaussian_blur": (0.5, 2.0),
                "average_blur": (1, 5), "median_blur": (1, 5), "sharpen": (0.1, 0.4)},)),
        Group(({"jpeg": (10, 25), "frost": (0.4, 0.7), "clouds": (0.4, 0.7), "fog": (0.4, 0.6),
                "snow": (0.1, 0.2), "rain": (0.1, 0.2)},)),
    )),),),
    (
        (((1, 1), (_colours((0.0, 1.0), {"equalise": (1, 1)}),)),
         ((1, 1), (Group((
             {"gaussian_blur": (0.5, 2.0), "average_blur": (1, 7), "median_blur": (3, 7),
              "motion_blur": (3, 7)},
             _SHARPER,
         )),))),
        (((1, 2), (
            Group(({"gain_noise": (0, 0.2), **_NOISES, "gaussian_noise": (10, 20),
                    "laplace_noise": (10, 20), "impulse_noise": (0.03, 0.06),
                    "dropout": (0.05, 0.1), **_BLOCKS},
                   _RECODED, _POOLS)),
            _weather(0.5, 0.8, 0.2),
        )),),
    ),
    ((((1, 2), (
        _colours((0.3, 1.0), _CLAHE),
        Group((
            {"gaussian_blur": (0.5, 2.0), "average_blur": (2, 7), "median_blur": (3, 9),
             "motion_blur": (3, 7), "glass_blur": (1, 2), "defocus_blur": (2, 4)},
            _SHARPER,
        )),
    )),
      ((0, 2), (
          Group(({"gain_noise": (0, 0.9), **_NOISES, "impulse_noise": (0.03, 0.09),
                  "speckle_noise": (0.15, 0.2)},
                 _RECODED, _BLOCKS,
                 {**_POOLS, "average_pool": (2, 4), "max_pool": (2, 3), "min_pool": (2, 3),
                  "median_pool": (2, 3)})),
          _weather(0.6, 0.8, 0.35),
      ))),),
    ((((1, 2), (
        _colours((0.3, 1.0), _CLAHE, {"linear_contrast": (0.2, 2.0)}),
        Group((
            {"gaussian_blur": (0.5, 2.0), "average_blur": (3, 9), "median_blur": (3, 9),
             "motion_blur": (3, 7), "glass_blur": (1, 2), "defocus_blur": (2, 4),
             "zoom_blur": (1.05, 1.1)},
            _SHARPER,
        )),
    )),
      ((2, 2), (
          Group(({"gain_noise": (0, 0.5), **_NOISES, "gaussian_noise": (10, 20),
                  "laplace_noise": (10, 20), "impulse_noise": (0.06, 0.09),
                  "dropout": (0.05, 0.1), "speckle_noise": (0.2, 0.35), "shot_noise": (25, 60),
                  **_BLOCKS},
                 _RECODED, {**_POOLS, "average_pool": (2, 4)},
                 {"invert": (0.5, 0.5), "solarise": (0, 255)})),
          _weather(0.6, 0.9, 0.35),
      ))),),
)  # fmt: skip

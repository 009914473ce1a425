"""The way to the viewer: what happens to a picture between its maker and the one who judges it.

A picture is posted, scaled, sent on, seen in a video, taken as a screenshot and posted again. A way
is drawn as one to three stations, each of which scales, sharpens and compresses the picture. What
is drawn knows nothing of the picture but a random stream: the same seed gives the same way to a
real face and to a forged one, so a way tells nothing about the label.

Shape letters: H, W picture; S side of a face crop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import cv2
import numpy as np

from comics.data.compression import compress_image, gif, jpeg_subsampled, webp

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
# How often a station is the last one: after the first, the second; the third always is
LAST = (0.35, 0.6, 1.0)
MIN_SIDE = 16  # pixels; no station makes a picture's shorter side smaller
SCALE_LIMITS = (0.45, 1.5)  # of a whole way, against the first picture
MASK_LEVEL = 127  # of 0-255 in a scaled mask


@dataclass(frozen=True)
class Station:
    """One copy of a picture.

    Attributes:
        kind: a key of ``STATIONS``.
        scale: of both sides against the picture that arrives.
        interpolation: a key of ``INTERPOLATIONS``.
        sharpen: share of an unsharp mask that is added; 0 for none.
        offset: rows and columns by which the codec's grid of blocks is moved.
        codec: "jpeg", "webp", "h264", "gif" or "none".
        level: quality of JPEG and WebP, constant rate factor of H.264; 0 otherwise.
        subsampling: of JPEG.
    """

    kind: str
    scale: float
    interpolation: str
    sharpen: float
    offset: tuple[int, int]
    codec: str
    level: int
    subsampling: str = "4:2:0"


@dataclass(frozen=True)
class StationKind:
    """What a kind of station draws from: ranges, and how often it comes (``weight``)."""

    weight: float
    codecs: tuple[str, ...]
    level: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    scale_prob: float = 0.0
    interpolations: tuple[str, ...] = ("area", "linear", "cubic", "lanczos")
    sharpen: tuple[float, float] = (0.0, 0.0)


# Qualities: what platforms, messengers and video services are reported to use; the rest is ours
STATIONS: dict[str, StationKind] = {
    "post": StationKind(0.35, ("jpeg",), (60, 95), (0.5, 1.0), 0.6),
    "messenger": StationKind(0.2, ("jpeg", "webp"), (45, 85), (0.5, 1.0), 0.7),
    "video": StationKind(0.2, ("h264",), (18, 32), (0.5, 1.0), 0.5),
    "screenshot": StationKind(
        0.2, ("none", "jpeg", "webp"), (70, 95), (0.7, 1.33), 1.0,
        ("nearest", "linear", "cubic", "lanczos"), (0.0, 0.6),
    ),
    "gif": StationKind(0.05, ("gif",), (0, 0), (0.5, 0.9), 0.5),
}  # fmt: skip
BLOCK = 8  # pixels of a codec's grid


@dataclass(frozen=True)
class Way:
    """What a picture goes through.

    Attributes:
        crop: shares cut off at left, top, right and bottom, before the stations.
        stations: in their order.
    """

    crop: tuple[float, float, float, float]
    stations: tuple[Station, ...]

    @property
    def record(self) -> dict:
        """Ready for JSON."""
        return {"crop": list(self.crop), "stations": [asdict(s) for s in self.stations]}


def draw_way(rng: np.random.Generator, *, max_crop: float = 0.0) -> Way:
    """A way; all randomness comes from ``rng``, and nothing else is looked at.

    Args:
        rng: random source.
        max_crop: the most that is cut off at a side, as a share; half of the ways cut nothing.
    """
    cuts = bool(rng.random() < 0.5)
    left, top, right, bottom = (round(x * cuts, 4) for x in rng.uniform(0, max_crop, 4).tolist())
    stations, total = [], 1.0
    for last in LAST:
        station = _draw_station(rng)
        # Scales multiply; a way that would end too small or too large keeps its size here
        if not SCALE_LIMITS[0] <= total * station.scale <= SCALE_LIMITS[1]:
            values = {f.name: getattr(station, f.name) for f in fields(station)}
            station = Station(**values | {"scale": 1.0})
        total *= station.scale
        stations.append(station)
        if rng.random() < last:
            break
    return Way((left, top, right, bottom), tuple(stations))


def travel(image: np.ndarray, way: Way) -> np.ndarray:
    """The picture that arrives: [H, W, 3] uint8 to [H', W', 3], cut and scaled by the way."""
    rows, columns = cut_of(image.shape[:2], way)
    image = image[rows, columns]
    for station in way.stations:
        image = _pass(image, station)
    return np.ascontiguousarray(image)


def travel_crop(image: np.ndarray, way: Way) -> np.ndarray:
    """A face crop [S, S, 3] uint8 after the stations, back at its own size; nothing is cut off."""
    arrived = travel(image, Way((0.0, 0.0, 0.0, 0.0), way.stations))
    if arrived.shape == image.shape:
        return arrived
    smaller = arrived.shape[0] > image.shape[0]
    kind = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(arrived, image.shape[1::-1], interpolation=kind)


def travel_boxes(boxes: np.ndarray, shape: tuple[int, int], way: Way) -> np.ndarray:
    """Boxes [N, 4] (x0, y0, x1, y1) of a picture [H, W] in the one that arrives."""
    rows, columns = cut_of(shape, way)
    size = arrival_size((rows.stop - rows.start, columns.stop - columns.start), way)
    factor = (size[1] / (columns.stop - columns.start), size[0] / (rows.stop - rows.start))
    offset = np.array([columns.start, rows.start] * 2)
    return (np.asarray(boxes, np.float64).reshape(-1, 4) - offset) * np.array(factor * 2)


def travel_mask(mask: np.ndarray, way: Way) -> np.ndarray:
    """A mask [H, W] bool in the picture that arrives; compression does not touch it."""
    rows, columns = cut_of(mask.shape, way)
    cut = mask[rows, columns]
    size = arrival_size(cut.shape, way)
    if size == cut.shape:
        return np.ascontiguousarray(cut)
    kind = cv2.INTER_AREA if size[0] < cut.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(cut.astype(np.uint8) * 255, size[::-1], interpolation=kind) > MASK_LEVEL


def cut_of(shape: tuple[int, int], way: Way) -> tuple[slice, slice]:
    """Rows and columns that a way keeps of a picture [H, W]; at least ``MIN_SIDE`` of each."""
    left, top, right, bottom = way.crop
    spans = []
    for length, before, after in ((shape[0], top, bottom), (shape[1], left, right)):
        start, stop = round(before * length), length - round(after * length)
        spans.append(slice(start, stop) if stop - start >= MIN_SIDE else slice(0, length))
    return spans[0], spans[1]


def arrival_size(size: tuple[int, int], way: Way) -> tuple[int, int]:
    """(H', W') of a picture of ``size`` after the stations of a way."""
    for station in way.stations:
        size = _scaled_size(size, station.scale)
    return size


def _draw_station(rng: np.random.Generator) -> Station:
    weights = np.array([kind.weight for kind in STATIONS.values()])
    name = str(rng.choice(list(STATIONS), p=weights / weights.sum()))
    kind = STATIONS[name]
    scale = float(rng.uniform(*kind.scale)) if rng.random() < kind.scale_prob else 1.0
    codec = str(rng.choice(kind.codecs))
    level = int(rng.integers(kind.level[0], kind.level[1] + 1))
    interpolation = str(rng.choice(kind.interpolations))
    sharpen = round(float(rng.uniform(*kind.sharpen)), 3)
    left, top = rng.integers(0, BLOCK, 2).tolist()
    return Station(
        kind=name,
        scale=round(scale, 4),
        interpolation=interpolation,
        sharpen=sharpen,
        offset=(left, top),
        codec=codec,
        level=level if codec in ("jpeg", "webp", "h264") else 0,
        subsampling=str(rng.choice(("4:2:0", "4:2:0", "4:2:2", "4:4:4"))),
    )


def _pass(image: np.ndarray, station: Station) -> np.ndarray:
    """A picture after one station."""
    size = _scaled_size(image.shape[:2], station.scale)
    if size != image.shape[:2]:
        kind = INTERPOLATIONS[station.interpolation]
        image = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=kind)
    if station.sharpen:
        wide = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = cv2.addWeighted(image, 1 + station.sharpen, wide, -station.sharpen, 0)
    # What is cut off before saving moves the grid of blocks; here the same by padding
    pads = ((station.offset[0], 0), (station.offset[1], 0), (0, 0))
    saved = _coded(np.pad(image, pads, mode="edge"), station)
    return saved[station.offset[0] :, station.offset[1] :]


def _coded(image: np.ndarray, station: Station) -> np.ndarray:
    if station.codec == "jpeg":
        return jpeg_subsampled(image, station.level, station.subsampling)
    if station.codec == "webp":
        return webp(image, station.level)
    if station.codec == "h264":
        return compress_image(image, station.level)
    return gif(image) if station.codec == "gif" else image


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Both sides by one factor, never under ``MIN_SIDE`` unless they were before."""
    smallest = min(1.0, MIN_SIDE / min(size))
    factor = max(scale, smallest)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

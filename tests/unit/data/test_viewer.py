"""The way to the viewer: what is drawn, what it does, and that geometry follows."""

from collections import Counter

import numpy as np
import pytest

from comics.data.compression import gif, jpeg_subsampled, webp
from comics.data.viewer import (
    SCALE_LIMITS,
    STATIONS,
    Station,
    Way,
    arrival_size,
    draw_way,
    travel,
    travel_boxes,
    travel_crop,
    travel_mask,
)

UNCUT = (0.0, 0.0, 0.0, 0.0)


def smooth(height=120, width=160, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 120 + 50 * np.sin(x / 11 + seed) * np.cos(y / 9)
    noise = rng.normal(0, 3, (height, width, 3))
    return np.clip(waves[..., None] + noise, 0, 255).astype(np.uint8)


def ways(count, **options):
    return [draw_way(np.random.default_rng(seed), **options) for seed in range(count)]


def test_one_to_three_stations_of_every_kind():
    drawn = ways(800)
    lengths = Counter(len(way.stations) for way in drawn)
    assert set(lengths) == {1, 2, 3}
    assert abs(lengths[1] / 800 - 0.35) < 4 * np.sqrt(0.35 * 0.65 / 800)
    stations = [station for way in drawn for station in way.stations]
    kinds = Counter(station.kind for station in stations)
    for name, kind in STATIONS.items():
        share = kinds[name] / len(stations)
        assert abs(share - kind.weight) < 4 * np.sqrt(0.25 / len(stations))
    assert {s.codec for s in stations} == {"jpeg", "webp", "h264", "gif", "none"}
    assert {s.subsampling for s in stations if s.codec == "jpeg"} == {"4:2:0", "4:2:2", "4:4:4"}
    for way in drawn:
        total = np.prod([station.scale for station in way.stations])
        assert SCALE_LIMITS[0] - 1e-9 <= total <= SCALE_LIMITS[1] + 1e-9
        assert way.crop == UNCUT


def test_screenshots_scale_by_no_whole_number_and_sharpen():
    shots = [s for way in ways(400) for s in way.stations if s.kind == "screenshot"]
    scaled = [s for s in shots if s.scale != 1]
    assert len(scaled) > 0.7 * len(shots)
    assert max(s.sharpen for s in shots) > 0.5


def test_the_same_seed_is_the_same_way_and_the_same_picture():
    image = smooth()
    for seed in range(12):
        one, two = (draw_way(np.random.default_rng(seed), max_crop=0.1) for _ in range(2))
        assert one == two
        np.testing.assert_array_equal(travel(image, one), travel(image, two))


def test_every_way_can_be_gone():
    for seed, way in enumerate(ways(60, max_crop=0.15)):
        image = smooth(*((120, 160) if seed % 2 else (33, 21)), seed=seed)
        before = image.copy()
        arrived = travel(image, way)
        np.testing.assert_array_equal(image, before)
        assert arrived.dtype == np.uint8 and arrived.ndim == 3
        assert travel_mask(np.ones(image.shape[:2], bool), way).shape == arrived.shape[:2]
        # What arrives is still the picture: tones are kept within the loss of its codecs
        assert abs(arrived.mean() - image.mean()) < 12
        crop = travel_crop(image[:21, :21], way)
        assert crop.shape == (21, 21, 3)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_and_masks_follow_the_picture(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((200, 240, 3), np.uint8)
    mask = np.zeros((200, 240), bool)
    mask[60:140, 70:150] = True
    image[mask] = 255
    drawn = draw_way(rng, max_crop=0.1)
    crop = tuple(rng.uniform(0, 0.1, 4))
    sizes_only = tuple(
        Station("post", s.scale, "area", 0.0, (0, 0), "none", 0) for s in drawn.stations
    )
    way = Way(crop, (*sizes_only, Station("post", 0.77, "linear", 0.0, (0, 0), "none", 0)))
    arrived = travel(image, way)
    moved = travel_mask(mask, way)
    seen = arrived[..., 0] > 127
    assert (seen != moved).sum() < 0.02 * seen.sum() + 60  # a pixel along the border
    x0, y0, x1, y1 = travel_boxes(np.array([70, 60, 150, 140]), (200, 240), way)[0]
    rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
    assert np.abs([x0 - columns[0], y0 - rows[0]]).max() <= 1
    assert np.abs([x1 - columns[-1] - 1, y1 - rows[-1] - 1]).max() <= 1


def test_a_small_picture_is_not_scaled_away():
    station = Station("post", 0.5, "area", 0.0, (0, 0), "none", 0)
    assert arrival_size((20, 30), Way(UNCUT, (station,))) == (16, 24)
    assert arrival_size((8, 8), Way(UNCUT, (station,))) == (8, 8)


def test_codecs():
    image = smooth()
    for quality in (30, 90):
        for coded in (webp(image, quality), jpeg_subsampled(image, quality, "4:4:4")):
            assert coded.shape == image.shape and (coded != image).any()
    error = [np.abs(webp(image, q).astype(int) - image).mean() for q in (20, 95)]
    assert error[0] > error[1]
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, 1::2, 0] = 255  # colour of every second column: lost where chroma is halved
    kept, lost = (
        np.abs(jpeg_subsampled(red, 95, name).astype(int) - red).mean()
        for name in ("4:4:4", "4:2:0")
    )
    assert lost > 3 * kept
    colours = np.unique(gif(smooth(64, 64)).reshape(-1, 3), axis=0)
    assert 2 < len(colours) <= 256
    with pytest.raises(ValueError, match="4:2:0"):
        jpeg_subsampled(image, 90, "4:1:1")
    for function in (webp, lambda i, q: jpeg_subsampled(i, q, "4:4:4")):
        with pytest.raises(ValueError, match="1 to 100"):
            function(image, 0)

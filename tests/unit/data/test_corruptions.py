"""Corruptions: every name at every severity, and what some of them must do to numbers."""

import numpy as np
import pytest
from scipy import ndimage

from comics.data.corruptions import (
    CORRUPTIONS,
    MIXTURE_SEVERITY,
    SEVERITIES,
    challenge,
    corrupt,
    draw_challenge,
    jpeg,
)
from comics.data.weather import line_kernel


def scene(height=96, width=128):
    """Smooth colours, some texture, and one bright disc that marks a place."""
    y, x = np.mgrid[:height, :width]
    image = np.stack((60 + 60 * x / width, 90 + 40 * y / height, 80 + 20 * np.sin(x / 3)), axis=2)
    image[(x - 90) ** 2 + (y - 30) ** 2 < 15**2] = (230, 200, 190)
    return image.astype(np.uint8)


def distance(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_grow_and_are_reproducible(name):
    # Large enough for lengths that scale with the image to differ from level to level
    image = scene(height=384, width=512)
    original = image.copy()
    changes = []
    for severity in SEVERITIES:
        result = corrupt(image, name, severity, np.random.default_rng(1))
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        assert np.array_equal(result, corrupt(image, name, severity, np.random.default_rng(1)))
        changes.append(distance(result, image))
    assert np.array_equal(image, original)
    assert changes[0] > 0
    assert changes[4] > 1.3 * changes[0]
    assert changes[4] > 0.95 * changes[2] > 0.9 * changes[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_geometry_stays(name):
    """The disc is found where it was: the corrupted image correlates best at no shift."""
    image = scene()
    result = corrupt(image, name, 2, np.random.default_rng(2)).astype(float).mean(2)
    mark = np.zeros((96, 128))
    mark[15:46, 75:106] = 1
    template = ndimage.gaussian_filter(image.astype(float).mean(2), 2)
    blurred = ndimage.gaussian_filter(result, 2)

    def correlation(dy, dx):
        moved = np.roll(blurred, (dy, dx), (0, 1))
        return np.corrcoef(moved[mark > 0], template[mark > 0])[0, 1]

    scores = {(dy, dx): correlation(dy, dx) for dy in (-4, 0, 4) for dx in (-4, 0, 4)}
    assert max(scores, key=scores.get) == (0, 0)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 5)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_odd_sizes(name, size):
    image = np.full((*size, 3), 100, np.uint8)
    assert corrupt(image, name, 5, np.random.default_rng(0)).shape == image.shape


def test_lengths_scale_with_the_image():
    """A blur of an image twice as large covers twice the pixels: the same share of the picture."""
    small = scene()
    large = small.repeat(2, 0).repeat(2, 1)
    rng = np.random.default_rng
    for name in ("gaussian_blur", "defocus", "average_pool"):
        on_small = corrupt(small, name, 5, rng(0))
        on_large = corrupt(large, name, 5, rng(0))[::2, ::2]
        assert distance(on_small, on_large) < 0.6 * distance(small, on_small) + 1


def test_pooling_orders_values():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    low, high = (corrupt(image, n, 1, np.random.default_rng(0)) for n in ("min_pool", "max_pool"))
    assert np.array_equal(high, ndimage.maximum_filter(image, (3, 3, 1), mode="nearest"))
    assert np.array_equal(low, ndimage.minimum_filter(image, (3, 3, 1), mode="nearest"))


def test_posterise_leaves_as_many_values_as_its_bits():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    for severity, bits in zip(SEVERITIES, (6, 5, 4, 3, 2), strict=True):
        values = np.unique(corrupt(ramp, "posterise", severity, np.random.default_rng(0)))
        assert len(values) == 2**bits


def test_shot_noise_has_poisson_variance():
    flat = np.full((200, 200, 3), 100, np.uint8)
    noisy = corrupt(flat, "shot_noise", 1, np.random.default_rng(0)).astype(float)
    photons = 100 / 255 * 120
    assert noisy.mean() == pytest.approx(100, abs=0.5)
    assert noisy.std() == pytest.approx(np.sqrt(photons) / 120 * 255, rel=0.03)


def test_jpeg_is_the_image_again_at_high_quality():
    assert distance(jpeg(scene(), 95), scene()) < 1.5


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135])
def test_line_kernel(degrees):
    kernel = line_kernel(15, degrees)
    assert kernel.sum() == pytest.approx(1)
    rows, columns = np.nonzero(kernel)
    assert (rows.mean(), columns.mean()) == pytest.approx((7, 7), abs=0.3)
    if degrees != 90:
        slope = np.polyfit(columns, -rows, 1)[0]
        assert np.degrees(np.arctan(slope)) == pytest.approx((degrees + 90) % 180 - 90, abs=5)
    else:
        assert len(set(columns)) == 1


def test_unknown_name_and_severity():
    image = scene()
    with pytest.raises(KeyError, match=r"no corruption named 'fogg'\. Choices: fog, rain"):
        corrupt(image, "fogg", 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="severity is one of"):
        corrupt(image, "fog", 6, np.random.default_rng(0))


def test_challenge_mixtures():
    rng = np.random.default_rng(0)
    seen, counts = set(), set()
    order = list(CORRUPTIONS)
    for _ in range(500):
        mixture = draw_challenge(rng)
        names = [name for name, _ in mixture]
        groups = [CORRUPTIONS[name].group for name in names]
        assert len(set(groups)) == len(groups)
        assert names == sorted(names, key=order.index)
        assert all(1 <= level <= MIXTURE_SEVERITY[len(mixture)] for _, level in mixture)
        seen.update(names)
        counts.add(len(mixture))
    assert seen == set(CORRUPTIONS)
    assert counts == {1, 2, 3}


def test_challenge_depends_on_the_generator_alone():
    image = scene()
    results = [challenge(image, np.random.default_rng(seed)) for seed in range(12)]
    assert all(r.shape == image.shape for r in results)
    assert np.array_equal(results[5], challenge(image, np.random.default_rng(5)))
    assert len({r.tobytes() for r in results}) == 12

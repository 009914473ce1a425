"""The published mixtures: what may be in them, how often, and that geometry stays."""

from collections import Counter

import numpy as np
import pytest

from comics.data.challenge_levels import (
    LEVELS,
    OPERATIONS,
    SUBSETS,
    ChallengeView,
    Step,
    apply_mixture,
    draw_mixture,
)

# A value of each operation, in the middle of what the levels draw
VALUES = {
    "hue": 30, "channel_shift": 30, "channel_gain": 0.4, "temperature": 2500, "saturation": 0.5,
    "grey": 0.7, "brightness": 0.7, "gamma": 1.6, "sigmoid_contrast": 8, "log_contrast": 0.8,
    "linear_contrast": 1.6, "clahe": 2, "equalise": 1, "quantise": 6, "invert": 0.5,
    "solarise": 100, "gain_noise": 0.4, "gaussian_noise": 12, "laplace_noise": 12,
    "poisson_noise": 10, "impulse_noise": 0.06, "speckle_noise": 0.2, "shot_noise": 40,
    "dropout": 0.08, "blocks": 0.08, "gaussian_blur": 1.5, "average_blur": 4, "median_blur": 5,
    "motion_blur": 5, "defocus_blur": 3, "glass_blur": 2, "zoom_blur": 1.08, "sharpen": 0.3,
    "edges": 0.15, "emboss": 0.5, "jpeg": 10, "elastic": 3, "pixelate": 0.4, "superpixels": 300,
    "average_pool": 3, "max_pool": 3, "min_pool": 3, "median_pool": 3, "fog": 0.7, "clouds": 0.7,
    "frost": 0.8, "snow": 0.3, "rain": 0.3, "spatter": 0.06,
}  # fmt: skip


def scene(height=91, width=122):
    """Smooth colours with some texture, of odd sides."""
    y, x = np.mgrid[:height, :width]
    image = np.stack((60 + 60 * x / width, 90 + 40 * y / height, 80 + 20 * np.sin(x / 3)), axis=2)
    image[(x - 80) ** 2 + (y - 40) ** 2 < 20**2] = (230, 200, 190)
    return image.astype(np.uint8)


def test_every_operation_has_a_value_here():
    assert set(VALUES) == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_pixels_and_nothing_else(name):
    image = scene()
    original = image.copy()
    step = [Step(name, OPERATIONS[name].tag, VALUES[name])]
    result = apply_mixture(image, step, np.random.default_rng(1))
    assert result.shape == image.shape and result.dtype == np.uint8
    assert not np.array_equal(result, image)
    assert np.array_equal(image, original)
    assert np.array_equal(result, apply_mixture(image, step, np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("brightness", 0.5, lambda x: 0.5 * x),
        ("linear_contrast", 0.5, lambda x: 127.5 + 0.5 * (x - 127.5)),
        ("gamma", 2.0, lambda x: 255 * (x / 255) ** 2),
        ("solarise", 0, lambda x: 255 - x),
        ("log_contrast", 1.0, lambda x: 255 * np.log2(1 + x / 255)),
        ("quantise", 2, lambda x: np.where(x < 128, 64, 192)),
    ],
)
def test_curves_are_what_their_names_say(name, value, wanted):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    result = apply_mixture(ramp, [Step(name, "colour", value)], np.random.default_rng(0))
    assert np.abs(result[0, :, 0] - wanted(np.arange(256.0))).max() <= 1


def test_pools_of_a_checkerboard():
    board = np.indices((6, 6)).sum(0) % 2 * np.uint8(200)
    board = np.repeat(board[..., None].astype(np.uint8), 3, 2)
    for name, value in (("max_pool", 200), ("min_pool", 0), ("average_pool", 100)):
        step = [Step(name, "pooling", 2)]
        assert (apply_mixture(board, step, np.random.default_rng(0)) == value).all(), name


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_subset_has_its_kinds_alone(subset, level):
    rng = np.random.default_rng(0)
    tags = SUBSETS[subset]
    found = Counter()
    for _ in range(200):
        drawn, steps = draw_mixture(rng, level, tags)
        assert drawn == level and 1 <= len(steps) <= 8
        assert all(OPERATIONS[step.name].tag == step.tag for step in steps)
        found.update(step.tag for step in steps)
    assert set(found) <= set(tags or found)
    if subset == "all":
        # The lowest level never inverts, blanks blocks or moves pixels
        lowest = {"colour", "noise", "blur", "edge", "compression", "weather"}
        higher = lowest | {"pooling", "geometry", "block"}
        wanted = {1: lowest, 2: higher, 3: higher, 4: higher | {"inversion"}}[level]
        assert set(found) == wanted


def test_the_lowest_level_takes_one_or_two_of_three_groups():
    rng = np.random.default_rng(3)
    for _ in range(300):
        tags = [step.tag for step in draw_mixture(rng, 1)[1]]
        others = [tag for tag in tags if tag != "colour"]
        assert len(others) + ("colour" in tags) <= 2
        assert tags.count("colour") <= 3


def test_values_stay_within_the_published_ranges():
    rng = np.random.default_rng(5)
    values: dict[str, list[float]] = {}
    for _ in range(2000):
        for step in draw_mixture(rng, 1)[1]:
            values.setdefault(step.name, []).append(step.value)
    published = {"hue": (-30, 30), "saturation": (0.7, 1.3), "brightness": (0.7, 1.3),
                 "gaussian_noise": (0, 20), "gaussian_blur": (0.5, 2.0), "average_blur": (1, 5),
                 "median_blur": (1, 5), "jpeg": (10, 25)}  # fmt: skip
    for name, (low, high) in published.items():
        assert low <= min(values[name]) and max(values[name]) <= high
        assert max(values[name]) - min(values[name]) > 0.8 * (high - low)
    assert {int(value) for value in values["average_blur"]} == {1, 2, 3, 4, 5}


def test_a_seed_gives_a_mixture_and_all_levels_come():
    assert draw_mixture(np.random.default_rng(9)) == draw_mixture(np.random.default_rng(9))
    rng = np.random.default_rng(0)
    levels = Counter(draw_mixture(rng)[0] for _ in range(800))
    assert set(levels) == set(LEVELS) and min(levels.values()) > 140  # 200 expected


@pytest.mark.parametrize(
    ("arguments", "words"), [({"level": 5}, "level"), ({"tags": ["rain"]}, "kinds")]
)
def test_unknown_levels_and_kinds(arguments, words):
    with pytest.raises(ValueError, match=words):
        draw_mixture(np.random.default_rng(0), **arguments)


def test_the_oracle_view_corrupts_its_share():
    image, rng = scene(40, 40), np.random.default_rng(0)
    view = ChallengeView(0.5)
    same = sum(view(image, rng) is image for _ in range(200))
    assert 70 < same < 130
    assert ChallengeView(0.0)(image, rng) is image

"""Alignment, colours, blending and compression of patches."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.data.forgery import blending, history, warps


@given(
    angle=st.floats(-3, 3),
    scale=st.floats(0.2, 5),
    shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_a_similarity_is_recovered_from_its_points(angle, scale, shift, seed):
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(seed).uniform(0, 100, (5, 2))
    matrix = warps.similarity_transform(points, points @ linear.T + shift)
    np.testing.assert_allclose(matrix, np.hstack([linear, np.transpose([shift])]), atol=1e-7)


def test_coinciding_points_fix_no_similarity():
    with pytest.raises(ValueError, match="coincide"):
        warps.similarity_transform(np.ones((5, 2)), np.zeros((5, 2)))


def test_a_warp_moves_pixel_centres():
    image = np.random.default_rng(0).uniform(0, 255, (20, 30, 3)).astype(np.float32)
    moved = warps.warp(image, np.array([[1.0, 0, 3], [0, 1, 2]]), (20, 30))
    np.testing.assert_allclose(moved[2:, 3:], image[:-2, :-3], atol=1e-3)
    double = warps.warp(image, np.array([[2.0, 0, 0], [0, 2, 0]]), (40, 60))
    expected = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(double[4:-4, 4:-4], expected[4:-4, 4:-4], atol=2.0)


def test_colour_transfer_takes_over_mean_and_deviation():
    rng = np.random.default_rng(0)
    patch = rng.normal([140, 110, 100], 10, (40, 40, 3)).astype(np.float32)
    target = rng.normal([120, 120, 130], 11, (40, 40, 3)).astype(np.float32)
    region = np.ones((40, 40), bool)
    moved = blending.transfer_colour(patch, region, target, region)
    lab = [cv2.cvtColor(p / np.float32(255), cv2.COLOR_RGB2LAB) for p in (moved, target)]
    np.testing.assert_allclose(lab[0].mean((0, 1)), lab[1].mean((0, 1)), atol=0.3)
    np.testing.assert_allclose(lab[0].std((0, 1)), lab[1].std((0, 1)), rtol=0.05)


def test_alpha_blending_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    patch = rng.uniform(0, 255, (8, 9, 3)).astype(np.float32)
    target = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    soft = rng.uniform(0, 1, (8, 9)).astype(np.float32)
    soft[:3] = 0
    mixed = blending.alpha_blend(patch, target, soft)
    for y in range(8):
        for x in range(9):
            exact = soft[y, x] * patch[y, x] + (1 - soft[y, x]) * target[y, x].astype(float)
            assert np.abs(mixed[y, x] - exact).max() <= 0.51
    np.testing.assert_array_equal(mixed[:3], target[:3])


def test_poisson_keeps_gradients_and_takes_the_surroundings_colour():
    y, x = np.mgrid[:60, :60]
    texture = (10 * np.sin(x / 3.0))[..., None] * np.ones(3)
    patch = (90 + texture).astype(np.float32)
    target = np.full((60, 60, 3), 160, np.uint8)
    soft = ((x - 30) ** 2 + (y - 30) ** 2 < 400).astype(np.float32)
    cloned = blending.poisson_patch(patch, target, soft)
    inner = (slice(20, 40), slice(20, 40))
    assert cloned[inner].mean() == pytest.approx(160, abs=6)
    steps = np.diff(cloned[inner], axis=1), np.diff(patch[inner], axis=1)
    assert np.abs(steps[0] - steps[1]).mean() < 1.0


def test_poisson_does_not_shift_the_patch_at_the_windows_edge():
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, (40, 50, 3)).astype(np.float32), (0, 0), 2)
    target = np.rint(smooth).astype(np.uint8)
    soft = np.zeros((40, 50), np.float32)
    soft[0:30, 11:50] = 1
    cloned = blending.poisson_patch(target.astype(np.float32), target, soft)
    inside = soft > 0
    assert np.abs(cloned[inside] - target[inside]).mean() < 2.0


def test_jpeg_of_rgb_keeps_the_order_of_channels():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    again = history.jpeg_round_trip(red, 95)
    assert again[..., 0].mean() > 190 and again[..., 1:].mean() < 10


def test_history_is_recorded_and_stronger_means_coarser():
    patch = np.random.default_rng(0).uniform(60, 180, (33, 21, 3)).astype(np.float32)
    qualities = []
    for strength in (0.3, 1.0, 2.5):
        result, record = history.add_history(patch, np.random.default_rng(4), strength)
        assert result.shape == patch.shape and result.dtype == np.float32
        qualities.append(record["jpeg_quality"])
    assert qualities == sorted(qualities, reverse=True) and qualities[0] > qualities[-1]

"""Photometric augmentation against plain float64 formulas."""

import cv2
import numpy as np
import pytest

from comics.config import get_cfg
from comics.data.views import (
    PhotometricView,
    add_gaussian_noise,
    add_salt_pepper,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    blank_chunks,
    down_up,
    to_gray,
)

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def cut(values):
    return np.clip(values, 0, 255)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_jitter_against_formulas(image, factor):
    values = image.astype(np.float64)
    gray = values @ LUMA
    assert np.abs(adjust_brightness(image, factor) - cut(values * factor)).max() <= 1
    flat = gray.mean()
    expected = cut(flat + factor * (values - flat))
    assert np.abs(adjust_contrast(image, factor) - expected).max() <= 2
    expected = cut(gray[..., None] + factor * (values - gray[..., None]))
    assert np.abs(adjust_saturation(image, factor) - expected).max() <= 2


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_sharpness_against_a_loop(image, factor):
    values = image.astype(np.float64)
    weights = np.ones((3, 3))
    weights[1, 1] = 5
    result = adjust_sharpness(image, factor)
    for y in range(1, 39, 5):
        for x in range(1, 49, 5):
            around = values[y - 1 : y + 2, x - 1 : x + 2] * weights[..., None]
            smooth = around.sum((0, 1)) / 13
            expected = cut(smooth + factor * (values[y, x] - smooth))
            assert np.abs(result[y, x] - expected).max() <= 1.5


@pytest.mark.parametrize(
    "adjust", [adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness]
)
def test_factor_one_changes_nothing(image, adjust):
    assert np.array_equal(adjust(image, 1.0), image)


def test_gray(image):
    gray = to_gray(image)
    assert (gray == gray[..., :1]).all()
    assert np.abs(gray[..., 0] - image.astype(float) @ LUMA).max() <= 1


def test_gaussian_noise_has_its_deviation():
    middle = np.full((200, 200, 3), 128, np.uint8)
    noise = add_gaussian_noise(middle, 10.0, np.random.default_rng(1)).astype(float) - 128
    # 120,000 values: the standard error of the deviation is 0.02, of the mean 0.03
    assert abs(noise.std() - 10) < 0.15
    assert abs(noise.mean()) < 0.15
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03


def test_salt_and_pepper(image):
    middle = np.full((100, 100, 3), 128, np.uint8)
    result = add_salt_pepper(middle, 0.02, np.random.default_rng(1))
    changed = (result != 128).any(axis=2)
    assert 180 <= changed.sum() <= 200  # drawn with repetition
    assert set(np.unique(result[changed])) == {0, 255}
    assert (result[changed] == result[changed][:, :1]).all()  # a pixel is white or black
    assert 60 <= (result[changed][:, 0] == 255).sum() <= 140
    assert (middle == 128).all()


def test_blank_chunks_cover_the_division():
    white = np.full((43, 57, 3), 255, np.uint8)
    assert (blank_chunks(white, 10, np.arange(100)) == 0).all()
    one = blank_chunks(white, 10, np.array([27]))
    rows, columns = np.nonzero((one == 0).all(axis=2))
    assert (rows.min(), rows.max() + 1) == (round(2 * 4.3), round(3 * 4.3))
    assert (columns.min(), columns.max() + 1) == (round(7 * 5.7), round(8 * 5.7))
    assert (white == 255).all()


def test_down_up_loses_detail_and_keeps_the_mean():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    result = down_up(np.repeat(checks[..., None], 3, 2), 4)
    assert result.shape == (64, 64, 3)
    assert np.abs(result.astype(float) - 127.5).max() < 1
    assert down_up(np.zeros((2, 3, 3), np.uint8), 4).shape == (2, 3, 3)


def only(**chances):
    names = ["jitter", "gray", "block", "gaussian", "salt_pepper", "downscale"]
    return PhotometricView(**{f"{n}_prob": chances.get(n, 0.0) for n in names})


def test_nothing_drawn_is_the_image_itself(image):
    assert only()(image, np.random.default_rng(0)) is image


def test_each_probability_switches_its_own_part(image):
    rng = np.random.default_rng(0)
    original = image.copy()
    gray = only(gray=1.0)(image, rng)
    assert np.array_equal(gray, to_gray(image))
    assert np.array_equal(only(downscale=1.0)(image, rng), down_up(image, 4))
    blocked = only(block=1.0)(np.full((100, 100, 3), 255, np.uint8), rng)
    assert (blocked == 0).all(2).sum() / 100 in (2, 3, 4, 5, 6)  # whole chunks, 2-6 %
    noisy = only(gaussian=1.0)(np.full((90, 90, 3), 128, np.uint8), rng)
    assert 1.5 < noisy.std() < 15.5
    spotted = only(salt_pepper=1.0)(np.full((90, 90, 3), 128, np.uint8), rng)
    assert 0 < (spotted != 128).any(2).mean() <= 0.02
    assert not np.array_equal(only(jitter=1.0)(image, rng), image)
    assert np.array_equal(image, original)


def test_how_often_a_part_is_drawn(image):
    rng, view = np.random.default_rng(4), only(gray=0.2)
    count = sum(view(image, rng) is not image for _ in range(2000))
    assert abs(count / 2000 - 0.2) < 0.036  # four standard deviations


def test_views_depend_on_the_generator_alone(image):
    view = PhotometricView()
    first = [view(image, np.random.default_rng(seed)) for seed in range(20)]
    again = [view(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) > 15
    assert all(a.shape == image.shape and a.dtype == np.uint8 for a in first)
    cv2.setRNGSeed(7)  # the state of OpenCV's own generator plays no part
    assert np.array_equal(view(image, np.random.default_rng(3)), first[3])


def test_from_config():
    cfg = get_cfg()
    assert PhotometricView.from_config(cfg) == PhotometricView()
    cfg.INPUT.VIEWS.BLOCK_SHARE = [0.5, 0.6]
    cfg.INPUT.VIEWS.GRAY_PROB = 0.7
    view = PhotometricView.from_config(cfg)
    assert (view.block_share, view.gray_prob) == ((0.5, 0.6), 0.7)

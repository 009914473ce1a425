from dataclasses import replace

import numpy as np
import pytest

from comics.config import get_cfg
from comics.data.faces.degradations import Degradation, webp_round_trip

NONE = {name: 0.0 for name in ("resize_prob", "blur_prob", "noise_prob", "codec_prob")}


def degradation(**changes):
    cfg = get_cfg()
    cfg.INPUT.FACE.DEGRADE.PROB = 1.0
    return replace(Degradation.from_config(cfg), **{**NONE, **changes})


def picture(height=90, width=120):
    rows, columns = np.mgrid[:height, :width]
    plane = 128 + 60 * np.sin(rows / 9) + 40 * np.cos(columns / 7)
    noise = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    return np.clip(plane[..., None] + noise, 0, 255).astype(np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_nothing_drawn_is_nothing_done():
    image = picture()
    assert degradation()(image, rng()) is image
    assert degradation(prob=0.0, codec_prob=1.0)(image, rng()) is image


def test_sides_are_in_the_range_and_growth_is_limited():
    image = picture()
    shrink = degradation(resize_prob=1.0, sides=(30.0, 60.0))
    sizes = [shrink(image, rng(seed)).shape for seed in range(40)]
    assert all(30 <= width <= 60 and abs(height - 0.75 * width) <= 1 for height, width, _ in sizes)
    assert len({width for _, width, _ in sizes}) > 10
    grow = degradation(resize_prob=1.0, sides=(500.0, 600.0), growth=1.5)
    assert grow(image, rng()).shape == (135, 180, 3)


@pytest.mark.parametrize("step", ["blur_prob", "noise_prob", "codec_prob"])
def test_each_step_changes_pixels_a_little_and_not_the_argument(step):
    image = picture()
    before = image.copy()
    result = degradation(**{step: 1.0})(image, rng())
    assert (image == before).all()
    assert result.shape == image.shape and result.dtype == np.uint8
    difference = np.abs(result.astype(int) - image)
    assert difference.any() and difference.mean() < 12


def test_blur_takes_noise_and_noise_adds_it():
    def roughness(image):
        return np.abs(np.diff(image.astype(int), axis=1)).mean()

    image = picture()
    blurred = degradation(blur_prob=1.0, blur_sigma=(1.0, 1.0))(image, rng())
    noisy = degradation(noise_prob=1.0, noise_sigma=(10.0, 10.0))(image, rng())
    assert roughness(blurred) < 0.6 * roughness(image) < roughness(image) < roughness(noisy)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_lower_quality_loses_more(share):
    image = picture()

    def loss(quality):
        codec = degradation(codec_prob=1.0, again_prob=0.0, webp_share=share,
                            quality=(quality, quality))  # fmt: skip
        return np.abs(codec(image, rng()).astype(int) - image).mean()

    assert loss(20) > loss(60) > loss(95) > 0


def test_webp_keeps_what_a_picture_shows():
    image = picture()
    result = webp_round_trip(image, 95).astype(int)
    assert np.abs(result - image).mean() < 6
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert webp_round_trip(red, 95).mean((0, 1)).argmax() == 0  # colours are not exchanged


def test_the_same_generator_draws_the_same():
    chain = degradation(resize_prob=1.0, blur_prob=1.0, noise_prob=1.0, codec_prob=1.0)
    image = picture()
    assert (chain(image, rng(3)) == chain(image, rng(3))).all()

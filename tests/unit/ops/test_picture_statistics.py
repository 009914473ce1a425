"""Blocks of a codec, and what a picture looks like."""

import io

import numpy as np
import pytest
from PIL import Image

from comics.ops.picture_statistics import DESCRIPTOR_NAMES, blockiness, describe_picture


def smooth_picture(seed=0, side=160):
    """Soft shapes with a little noise, like a photo out of focus."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return (picture + generator.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


def jpeg(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_a_grid_of_blocks_is_measured_exactly():
    # Blocks of 8 in a row differ by 10, pixels inside them by 1 (a ramp): (10 + .01) / (1 + .01)
    steps = np.where(np.arange(1, 64) % 8, 1.0, 10.0)
    row = np.concatenate([[0.0], steps.cumsum()])
    assert blockiness(row[None] + row[:, None]) == pytest.approx(10.01 / 1.01, rel=1e-6)
    assert blockiness(row[None] * 0 + np.arange(64.0)[:, None]) == 1


@pytest.mark.parametrize("offset", [(0, 0), (3, 5), (7, 1)])
def test_stronger_compression_has_more_of_it_wherever_the_grid_starts(offset):
    top, left = offset
    found = [
        np.mean(
            [blockiness(jpeg(smooth_picture(seed), quality)[top:, left:, 1]) for seed in range(5)]
        )
        for quality in (95, 50, 20, 8)
    ]
    assert found == sorted(found) and found[-1] > 2 * found[0]


def test_no_grid_no_blockiness():
    flat = np.full((40, 40), 7, np.uint8)
    assert blockiness(flat) == 1
    assert blockiness(np.zeros((5, 400))) == 1  # too small for two edges of blocks
    noise = np.random.default_rng(0).normal(128, 20, (200, 200))
    assert blockiness(noise) < 1.15
    # Resizing takes the grid away
    coded = jpeg(smooth_picture(), 10)
    small = np.asarray(Image.fromarray(coded).resize((111, 111), Image.Resampling.BILINEAR))
    assert blockiness(small[..., 1]) < blockiness(coded[..., 1]) / 1.5


def named(picture):
    return dict(zip(DESCRIPTOR_NAMES, describe_picture(picture), strict=True))


def test_the_descriptor_tells_night_grey_blur_and_noise_apart():
    picture = smooth_picture()
    usual = named(picture)
    assert named(picture // 5)["luminance"] < usual["luminance"] / 2
    grey = np.repeat(picture.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    assert abs(named(grey)["chroma_a"]) < 1 and named(grey)["spread_b"] < 1 < usual["spread_b"]
    noise = np.random.default_rng(1).normal(0, 25, picture.shape)
    assert (
        named((picture + noise).clip(0, 255).astype(np.uint8))["detail_0"] > usual["detail_0"] + 1
    )
    black = named(np.zeros((30, 20, 3), np.uint8))
    assert black["clipped"] == 1 and black["luminance"] == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (17, 16, 3), (900, 700, 3)])
def test_any_size_gives_finite_numbers(shape):
    picture = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    found = describe_picture(picture)
    assert found.shape == (len(DESCRIPTOR_NAMES),) and np.isfinite(found).all()

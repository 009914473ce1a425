import numpy as np
import pytest
import torch

from comics.config import get_cfg
from comics.data.faces.augmenters import face_augmenter
from comics.data.faces.contrastive_views import ContrastiveViews
from comics.data.faces.views import (
    Augmentation,
    DCLViews,
    FaceAugmenter,
    enhance_high_frequency,
    mix,
    shuffle_patches,
)
from comics.data.views import PhotometricView
from comics.ops.srm import srm_residual


@pytest.mark.parametrize(("size", "grid"), [(12, 3), (13, 4), (8, 1), (9, 9)])
def test_patches_are_laid_in_the_order_given(size, grid):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    order = rng.permutation(grid * grid)
    result = shuffle_patches(image, grid, order)
    side = size // grid
    expected = image.copy()
    for i in range(side * grid):
        for j in range(side * grid):
            patch = order[(i // side) * grid + j // side]
            expected[i, j] = image[patch // grid * side + i % side, patch % grid * side + j % side]
    np.testing.assert_array_equal(result, expected)
    back = shuffle_patches(result, grid, np.argsort(order))
    np.testing.assert_array_equal(back, image)


def test_bad_patches():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="permutation"):
        shuffle_patches(image, 2, np.array([0, 1, 2, 2]))
    with pytest.raises(ValueError, match="do not fit"):
        shuffle_patches(image, 5, np.arange(25))


def test_high_frequency_adds_the_residual(picture):
    image = picture(3)
    residual = srm_residual(torch.from_numpy(image.transpose(2, 0, 1).copy()), truncate=3.0)
    expected = np.clip(np.rint(image + residual.numpy().transpose(1, 2, 0)), 0, 255)
    np.testing.assert_array_equal(enhance_high_frequency(image), expected)
    flat = np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(enhance_high_frequency(flat), flat)


def test_mixture(picture):
    fake, real = picture(1), picture(2)
    expected = 0.3 * fake.astype(float) + 0.7 * real
    assert np.abs(mix(fake, real, 0.3) - expected).max() <= 0.5 + 1e-6


def strong_augmenter():
    view = PhotometricView(
        jitter_prob=1.0,
        gaussian_prob=1.0,
        gaussian_sigma=(1, 5),
        gray_prob=0.5,
        block_prob=0.0,
        salt_pepper_prob=0.0,
        downscale_prob=0.0,
    )
    return DCLViews(FaceAugmenter(0.5, view), 1.0, 4, 1.0, 0.5, 1.0, (0.5, 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_copies_and_masks_stay_aligned_with_their_picture(seed):
    """Where two pictures differ is where the mask moves to, whatever was drawn."""
    rng = np.random.default_rng(seed)
    augmentation = strong_augmenter().draw(rng)
    assert augmentation.patches is not None
    base = rng.integers(50, 100, (32, 32, 3)).astype(np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[3:17, 10:25] = True
    other = base.copy()
    other[mask] += 100
    one = augmentation.image(base).astype(int)
    two = augmentation.image(other).astype(int)
    moved = augmentation.mask(mask)
    difference = np.abs(one - two).sum(axis=2)
    assert difference[moved].mean() > 60
    assert difference[moved].mean() > 4 * difference[~moved].mean()
    assert moved.sum() == mask.sum()


def test_the_same_augmentation_is_the_same_again(picture):
    augmentation = strong_augmenter().draw(np.random.default_rng(1))
    np.testing.assert_array_equal(augmentation.image(picture(1)), augmentation.image(picture(1)))


def test_nothing_drawn_is_nothing_changed(picture):
    assert Augmentation().image(picture(4)) is not None
    np.testing.assert_array_equal(Augmentation().image(picture(4)), picture(4))


def test_probabilities_of_the_views_are_kept():
    views = DCLViews(FaceAugmenter(0.3, PhotometricView()), 0.2, 2, 0.7, 0.5, 0.4, (0.5, 0.9))
    rng = np.random.default_rng(0)
    drawn = [views.draw(rng) for _ in range(3000)]
    for share, expected in (
        (np.mean([d.flip for d in drawn]), 0.3),
        (np.mean([d.patches is not None for d in drawn]), 0.2),
        (np.mean([d.high_frequency for d in drawn]), 0.7),
        (np.mean([d.mixup is not None for d in drawn]), 0.4),
    ):
        assert share == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 3000))
    shares = [d.mixup for d in drawn if d.mixup is not None]
    assert 0.5 <= min(shares) < 0.52
    assert 0.88 < max(shares) <= 0.9


def test_which_augmenter_a_method_gets():
    cfg = get_cfg()
    cfg.MODEL.FACE.METHOD = "DCL"
    assert isinstance(face_augmenter(cfg), DCLViews)
    cfg.MODEL.FACE.DCL.VIEWS.ENABLED = False
    assert isinstance(face_augmenter(cfg), FaceAugmenter)
    cfg.MODEL.FACE.METHOD = "RealCentric"
    cfg.MODEL.FACE.DCL.VIEWS.ENABLED = True
    assert isinstance(face_augmenter(cfg), ContrastiveViews)
    cfg.MODEL.FACE.REAL_CENTRIC.VIEWS.ENABLED = False
    assert isinstance(face_augmenter(cfg), FaceAugmenter)
    cfg.MODEL.FACE.METHOD = "GuideSpace"
    cfg.MODEL.FACE.REAL_CENTRIC.VIEWS.ENABLED = True
    assert isinstance(face_augmenter(cfg), FaceAugmenter)

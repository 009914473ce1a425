"""The augmentation of contrastive learning, and what it leaves aligned."""

import cv2
import numpy as np
import pytest

from comics.config import get_cfg
from comics.data.faces.augmenters import face_augmenter
from comics.data.faces.contrastive_views import ContrastiveViews
from comics.data.faces.views import Augmentation, FaceAugmenter
from comics.data.views import shift_hue, to_gray


def config(**changes):
    cfg = get_cfg()
    cfg.INPUT.FACE.FLIP_PROB = 0.0
    views = cfg.MODEL.FACE.REAL_CENTRIC.VIEWS
    for key, value in changes.items():
        views[key] = value
    return cfg


def plain(**changes):
    """Crops alone."""
    quiet = {"JITTER_PROB": 0.0, "GRAY_PROB": 0.0, "BLUR_PROB": 0.0}
    return ContrastiveViews.from_config(config(**{**quiet, **changes}))


@pytest.mark.parametrize("method", ["RealCentric", "SupervisedContrastive", "CORE"])
def test_the_contrastive_methods_train_with_it(method):
    cfg = config()
    assert isinstance(face_augmenter(cfg), FaceAugmenter)
    cfg.MODEL.FACE.METHOD = method
    assert isinstance(face_augmenter(cfg), ContrastiveViews)
    cfg.MODEL.FACE.REAL_CENTRIC.VIEWS.ENABLED = False
    assert isinstance(face_augmenter(cfg), FaceAugmenter)


def test_parts_have_the_area_and_lie_within_the_crop():
    rng, views = np.random.default_rng(0), plain()
    parts = np.array([views.draw(rng).part for _ in range(500)])
    width, height = parts[:, 2] - parts[:, 0], parts[:, 3] - parts[:, 1]
    area = width * height
    assert (parts >= 0).all() and (parts <= 1 + 1e-9).all()
    assert area.min() >= 0.2 - 1e-9 and area.max() <= 1 + 1e-9
    assert abs(area.mean() - 0.6) < 0.03
    inner = area < 0.5  # where the crop's border does not narrow the ratio
    ratio = width[inner] / height[inner]
    assert ratio.min() >= 0.75 - 1e-6 and ratio.max() <= 1.3334
    assert abs(np.log(ratio).mean()) < 0.05


def test_a_part_of_the_picture_is_enlarged_and_the_mask_with_it():
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:20, 20:40] = 200
    part = Augmentation(part=(0.5, 0.25, 1.0, 0.75))
    found = part.image(image)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found, cv2.resize(image[10:30, 20:40], (40, 40)))
    mask = part.mask(image[..., 0] > 0)
    assert mask[:19].all() and not mask[21:].any()
    assert Augmentation(part=(0.0, 0.0, 1.0, 1.0)).image(image) is not None
    np.testing.assert_array_equal(Augmentation(part=(0, 0, 1, 1)).image(image), image)


def test_two_views_of_a_picture_are_no_near_duplicates(picture):
    """The share of pixels that two views have in common, with and without the crop."""
    image, rng = picture(3, 64, 64), np.random.default_rng(1)
    distances = {}
    for name, views in (("crop", plain()), ("none", plain(AREA=[1.0, 1.0], ASPECT=[1.0, 1.0]))):
        pairs = [(views.draw(rng).image(image), views.draw(rng).image(image)) for _ in range(30)]
        distances[name] = np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs])
    assert distances["none"] == 0 and distances["crop"] > 10


def test_colours_and_blur_are_as_often_as_configured(picture):
    image = picture(4, 64, 64)
    for key, changed in (("GRAY_PROB", to_gray(image)), ("BLUR_PROB", None)):
        views = plain(
            AREA=[1.0, 1.0], ASPECT=[1.0, 1.0], BLUR_SIGMA=[2.0, 4.0], **{key: 0.3}
        )  # a smaller blur changes no pixel of 64 by 64
        rng = np.random.default_rng(2)
        made = [views.draw(rng).image(image) for _ in range(300)]
        count = sum(not np.array_equal(one, image) for one in made)
        assert abs(count - 90) < 4 * np.sqrt(300 * 0.3 * 0.7)
        if changed is not None:
            assert all(np.array_equal(o, image) or np.array_equal(o, changed) for o in made)
    views = plain(AREA=[1.0, 1.0], ASPECT=[1.0, 1.0], JITTER_PROB=1.0)
    assert not np.array_equal(views.draw(np.random.default_rng(3)).image(image), image)


def test_hues_turn_in_a_circle():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 255
    third = shift_hue(image, 1 / 3)
    assert np.abs(third.astype(int) - [0, 255, 0]).max() <= 12  # a hue has 256 steps
    np.testing.assert_array_equal(shift_hue(image, 0.0), image)
    np.testing.assert_array_equal(shift_hue(image, 1.0), image)
    gray = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(shift_hue(gray, 0.3), gray)


@pytest.mark.parametrize("area", [[0.0, 1.0], [0.5, 1.2], [0.8, 0.5]])
def test_bad_areas_are_refused(area):
    with pytest.raises(ValueError, match="AREA"):
        plain(AREA=area)

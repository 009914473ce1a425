"""Forged faces: every method, on every kind of face."""

import json

import cv2
import numpy as np
import pytest

from comics.data.forgery import DEFAULT_METHODS, METHODS, describe_face, forge_face


def photo(seed=0, shape=(150, 200)):
    """A picture with structure and noise, nothing like a face: methods must not need one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = 120 + 60 * np.sin(x / 9.0 + seed) * np.cos(y / 7.0)
    return np.clip(waves[..., None] + rng.normal(0, 6, (*shape, 3)), 0, 255).astype(np.uint8)


class Redrawing:
    """Stands for a network: pictures come back darker, two of them mixed."""

    fixed_size, has_latent = None, True

    def round_trip(self, images):
        assert images.dtype == np.uint8 and not images.shape[1] % 8 and not images.shape[2] % 8
        return images // 2

    def mix(self, first, second, weights):
        assert first.shape == second.shape and len(weights) == len(first)
        share = np.reshape(weights, (-1, 1, 1, 1))
        return ((1 - share) * first + share * second).astype(np.uint8)


DONOR = describe_face(photo(1), [60, 30, 140, 130])
MATERIAL = {"donor": DONOR, "network": Redrawing()}
BOXES = {
    "middle": [50, 20, 130, 125],
    "top-left corner": [-25, -30, 40, 50],
    "bottom-right corner": [165, 110, 230, 190],
    "12 pixels": [90, 60, 102, 75],
    "larger than the photo": [-40, -30, 240, 190],
    "one column": [199, 40, 230, 100],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", BOXES)
def test_a_forgery_changes_its_face_and_nothing_else(method, place):
    image = photo()
    face = describe_face(image, BOXES[place])
    before = image.copy()
    result = forge_face(face, np.random.default_rng(3), method=method, **MATERIAL)
    np.testing.assert_array_equal(image, before)
    assert result.image.dtype == np.uint8 and result.image.shape == image.shape
    np.testing.assert_array_equal(result.image[result.soft_mask == 0], image[result.soft_mask == 0])
    np.testing.assert_array_equal(result.mask, face.mask)
    assert not result.soft_mask[~face.mask].any()
    np.testing.assert_array_equal(result.altered, result.soft_mask > 0.5)
    changed = (result.image != image).any(-1)
    assert changed[result.altered].mean() > 0.5
    json.dumps(result.parameters)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_alone_decides(method):
    face = describe_face(photo(), BOXES["middle"])
    first, again, other = (
        forge_face(face, np.random.default_rng(seed), method=method, **MATERIAL)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.soft_mask, again.soft_mask)
    assert first.parameters == again.parameters
    assert (first.image != other.image).any()


@pytest.mark.parametrize("method", METHODS)
def test_keypoints_landmarks_and_masks_are_accepted(method):
    image = photo()
    landmarks = np.random.default_rng(0).uniform(50, 110, (68, 2))
    mask = np.zeros(image.shape[:2], bool)
    mask[40:100, 60:110] = True
    keypoints = np.array([[70, 60], [100, 64], [84, 75], [70, 90], [95, 92]])
    for known in ({"landmarks": landmarks}, {"keypoints": keypoints}, {"mask": mask}):
        face = describe_face(image, [50, 40, 115, 112], **known)
        result = forge_face(face, np.random.default_rng(0), method=method, **MATERIAL)
        assert result.altered.any()


@pytest.mark.parametrize("method", ["down_up", "blur_sharpen", "dct_truncation", "pca_autoencoder"])
def test_a_stronger_trace_leaves_less_fine_structure(method):
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (140, 140, 3)).astype(np.uint8)
    face = describe_face(image, [10, 10, 130, 130])

    def roughness(strength):
        result = forge_face(face, np.random.default_rng(1), method=method, strength=strength)
        inside = result.image.astype(float)[50:90, 50:90]
        return np.abs(np.diff(inside, axis=0)).mean()

    assert roughness(2.0) < roughness(0.5)


def test_a_repeating_upsampler_leaves_its_period():
    """The mean residual per phase of the stride differs far more than chance allows."""
    image = np.full((160, 160, 3), 128, np.uint8)
    face = describe_face(image, [10, 10, 150, 150])
    for seed in range(20):
        result = forge_face(
            face, np.random.default_rng(seed), method="upsampling_grid", strength=2.0
        )
        if result.parameters["stride"] == 4:
            break
    centre = result.image[48:112, 48:112].astype(float).mean(-1)
    spectrum = np.abs(np.fft.fft2(centre - centre.mean()))
    step = 64 // 4
    peaks = max(spectrum[step, 0], spectrum[0, step], spectrum[step, step])
    assert peaks > 5 * np.median(spectrum)


def test_a_swap_shows_the_donor():
    target = photo()
    y, x = np.mgrid[:150, :200]
    stripes = 120 + 50 * np.sin((x + y) / 4.0)
    donor = np.repeat(stripes[..., None], 3, axis=-1).astype(np.uint8)
    box = [50, 20, 130, 125]
    faces = describe_face(target, box), describe_face(donor, box)
    result = forge_face(faces[0], np.random.default_rng(0), method="swap_alpha", donor=faces[1])
    core = result.soft_mask > 0.999

    def similarity(picture):
        grey = picture.mean(-1)[core]
        return np.corrcoef(grey, result.image.mean(-1)[core])[0, 1]

    assert similarity(donor) > 0.8 > 0.5 > abs(similarity(target))


def test_bad_calls_say_what_is_wrong():
    face = describe_face(photo(), BOXES["middle"])
    rng = np.random.default_rng(0)
    with pytest.raises(KeyError, match="self_blend"):
        forge_face(face, rng, method="selfblend")
    with pytest.raises(ValueError, match="donor"):
        forge_face(face, rng, method="swap_alpha")
    with pytest.raises(ValueError, match="network"):
        forge_face(face, rng, method="neural_trace")
    with pytest.raises(ValueError, match="strength"):
        forge_face(face, rng, method="down_up", strength=0)


def test_the_table_holds_every_family():
    families = {method.family for method in METHODS.values()}
    assert families == {
        "self-blending",
        "swap",
        "part edit",
        "resynthesis",
        "generated face",
        "network",
    }


def test_the_default_methods_are_those_of_before():
    """A seed keeps giving its set: later methods are asked for by name."""
    assert DEFAULT_METHODS == (
        "self_blend", "swap_alpha", "swap_poisson", "part_swap", "part_warp", "part_reblend",
        "down_up", "blur_sharpen", "upsampling_grid", "dct_truncation", "pca_autoencoder",
    )  # fmt: skip


def test_a_network_redraws_the_inside_of_the_face():
    image = np.full((160, 160, 3), 120, np.uint8)
    face = describe_face(image, [30, 20, 130, 150])
    result = forge_face(face, np.random.default_rng(0), method="neural_trace", network=Redrawing())
    core = result.soft_mask > 0.999
    assert abs(result.image[core].mean() - 60) < 2  # half as bright, and noise
    height, width = result.parameters["network_size"]
    assert height % 8 == width % 8 == 0 and 64 <= max(height, width) <= 192


def test_a_generated_face_keeps_a_grey_photo_grey():
    grey = np.repeat(photo()[..., :1], 3, axis=-1)
    colourful = photo(1).copy()
    colourful[..., 0] //= 2
    face = describe_face(grey, BOXES["middle"])
    donor = describe_face(colourful, [60, 30, 140, 130])
    result = forge_face(face, np.random.default_rng(0), method="generated_swap", donor=donor)
    core = result.image[result.altered].astype(int)
    # What is left is the noise of the patch, sigma under 2.8, after JPEG's chroma averaging
    assert np.abs(core - core.mean(-1, keepdims=True)).mean() < 3


def test_a_generated_face_is_no_sharper_than_the_one_it_replaces():
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(rng.integers(60, 190, (160, 160, 3)).astype(np.uint8), (0, 0), 2)
    sharp = rng.integers(60, 190, (160, 160, 3)).astype(np.uint8)
    faces = [describe_face(image, [30, 20, 130, 150]) for image in (blurred, sharp)]
    result = forge_face(faces[0], np.random.default_rng(0), method="generated_swap", donor=faces[1])
    assert result.parameters["softened"] >= 1.2

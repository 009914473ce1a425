"""Drawn scenes and people."""

from dataclasses import replace

import numpy as np
import pytest

from comics.data import synthetic, synthetic_face, synthetic_person


def test_the_seed_alone_decides_a_scene():
    first, again, other = (
        synthetic.draw_scene(np.random.default_rng(seed), (120, 160)) for seed in (2, 2, 3)
    )
    np.testing.assert_array_equal(first.image, again.image)
    for one, two in zip(first.faces, again.faces, strict=True):
        np.testing.assert_array_equal(one.mask, two.mask)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("size", [(32, 32), (97, 131), (240, 320), (200, 150)])
def test_faces_are_described_consistently(size):
    for seed in range(4):
        scene = synthetic.draw_scene(np.random.default_rng(seed), size)
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        for face in scene.faces:
            rows, columns = np.nonzero(face.mask)
            assert face.mask.shape == size and face.mask.dtype == bool
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(face.box, expected)
            assert face.keypoints.shape == (5, 2) and np.isfinite(face.keypoints).all()


def test_masks_of_one_scene_do_not_overlap():
    for seed in range(6):
        scene = synthetic.draw_scene(np.random.default_rng(seed), (240, 320), num_faces=5)
        assert np.sum([face.mask for face in scene.faces], axis=0).max() <= 1


def test_face_heights_span_the_asked_range():
    heights = [
        face.person.height
        for seed in range(25)
        for face in synthetic.draw_scene(np.random.default_rng(seed), (120, 160)).faces
    ]
    low, high = (share * 160 for share in synthetic.FACE_SHARE)
    assert min(heights) >= low and max(heights) <= high
    assert min(heights) < 1.3 * low and max(heights) > 0.75 * high


def frontal(**changes):
    person = synthetic_person.sample_person(np.random.default_rng(0), (80.0, 70.0), 80.0)
    plain = {
        "yaw": 0.0,
        "pitch": 0.0,
        "roll": 0.0,
        "occluder": "none",
        "glasses": False,
        "skin": (210.0, 170.0, 140.0),
        "beard": 0.0,
        "hair": (30.0, 25.0, 25.0),
    }
    return replace(person, **(plain | changes))


def test_a_frontal_face_has_symmetric_keypoints_that_turn_with_it():
    points = synthetic_person.keypoints_of(frontal())
    np.testing.assert_allclose(points[[1, 4], 0] - 80, 80 - points[[0, 3], 0], atol=1e-3)
    turned = synthetic_person.keypoints_of(frontal(roll=90.0))
    offset = points - (80, 70)
    np.testing.assert_allclose(
        turned - (80, 70), np.stack([-offset[:, 1], offset[:, 0]], 1), atol=1e-3
    )
    right = synthetic_person.keypoints_of(frontal(yaw=30.0))
    assert right[2, 0] > points[2, 0] + 3  # the nose points to the side that the head turns to


def test_eyes_are_painted_where_the_keypoints_are():
    for yaw in (-30.0, 0.0, 30.0):
        person = frontal(yaw=yaw)
        canvas = np.full((150, 160, 3), 90, np.float32)
        light = synthetic_person.Light((0, 0, 1), 0.6, 0.4, (1, 1, 1))
        drawing = synthetic_face.draw_person(canvas, person, light, np.random.default_rng(0))
        for x, y in drawing.keypoints[:2]:
            eye = canvas[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean(-1)
            cheek = canvas[int(y) + 12 : int(y) + 16, int(x) - 2 : int(x) + 3].mean(-1)
            assert eye.min() < 0.5 * cheek.mean()  # pupil against skin


def test_light_comes_from_its_side():
    canvas = np.full((150, 160, 3), 90, np.float32)
    light = synthetic_person.Light((0.8, 0, 0.6), 0.4, 0.6, (1, 1, 1))
    drawing = synthetic_face.draw_person(canvas, frontal(), light, np.random.default_rng(0))
    columns = np.broadcast_to(np.arange(160), drawing.face.shape)
    grey = canvas.mean(-1)
    left, right = (grey[drawing.face & side].mean() for side in (columns < 70, columns > 90))
    assert right > 1.1 * left


def test_an_occluder_hides_part_of_the_face():
    light = synthetic_person.Light((0, 0, 1), 0.6, 0.4, (1, 1, 1))
    areas = {}
    for kind in ("none", "mask", "scarf", "hand"):
        canvas = np.zeros((150, 160, 3), np.float32)
        person = frontal(occluder=kind)
        drawing = synthetic_face.draw_person(canvas, person, light, np.random.default_rng(0))
        areas[kind] = drawing.face.sum()
    assert areas["mask"] < 0.8 * areas["none"]
    assert areas["scarf"] < areas["none"] and areas["hand"] < areas["none"]


def test_a_photograph_has_correlated_noise_that_grows_with_the_light():
    dark, bright = (
        synthetic.photograph(np.random.default_rng(1), np.full((128, 128, 3), level, np.float32))
        for level in (30, 200)
    )
    assert bright.astype(float).std() > 1.3 * dark.astype(float).std() > 0
    green = bright[..., 1].astype(float) - bright[..., 1].mean()
    neighbours = (green[:, 1:] * green[:, :-1]).mean() / (green**2).mean()
    assert neighbours > 0.15  # a mosaic's interpolation; white noise would give 0


def test_a_portrait_is_one_unhidden_face_in_the_pose_of_another():
    rng = np.random.default_rng(5)
    scene = synthetic.draw_scene(rng, (120, 160), num_faces=1)
    like = scene.faces[0].person
    portrait = synthetic.draw_portrait(rng, like, scene.light, 60.0)
    assert len(portrait.faces) == 1
    person = portrait.faces[0].person
    assert person.occluder == "none" and person.height == 60.0
    assert abs(person.yaw - like.yaw) < 15


@pytest.mark.parametrize(
    "arguments",
    [{"size": (20, 100)}, {"num_faces": -1}, {"face_share": (0.5, 0.2)}, {"face_share": (0, 1)}],
)
def test_impossible_scenes_are_refused(arguments):
    with pytest.raises(ValueError):
        synthetic.draw_scene(np.random.default_rng(0), **arguments)


def test_an_empty_scene_has_no_faces():
    assert synthetic.draw_scene(np.random.default_rng(0), (64, 64), num_faces=0).faces == []

"""Where a face is: ellipse, hull, keypoints, soft masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.data.forgery import masks

IMAGE = np.zeros((120, 160, 3), np.uint8)


@given(
    roll=st.floats(-0.5, 0.5),
    width=st.floats(40, 60),
    aspect=st.floats(1.0, 1.5),
)
@settings(max_examples=40, deadline=None)
def test_the_ellipse_touches_all_four_sides_of_its_box(roll, width, aspect):
    box = np.array([30.0, 20.0, 30 + width, 20 + width * aspect])
    region = masks.ellipse_region((140, 140), box, roll)
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    bounds = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # The tip of an ellipse may miss the outermost pixel centres
    assert np.abs(bounds - box).max() <= 2.0


@pytest.mark.parametrize("roll", [np.pi / 4, np.pi / 2, -1.2])
def test_an_undetermined_ellipse_stays_in_its_box(roll):
    box = np.array([30.0, 30.0, 80.0, 90.0])
    region = masks.ellipse_region((120, 120), box, roll)
    y, x = np.nonzero(region)
    assert region.any()
    assert x.min() >= 29.5 and x.max() <= 80 and y.min() >= 29.5 and y.max() <= 90


def test_an_upright_ellipse_has_the_area_of_the_closed_form():
    box = np.array([10.0, 10.0, 90.0, 114.0])
    area = masks.ellipse_region((120, 100), box).sum()
    assert area == pytest.approx(np.pi * 40 * 52, rel=0.01)


@pytest.mark.parametrize("degrees", [0.0, 20.0, -35.0, 90.0])
def test_roll_is_that_of_turned_keypoints(degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = masks.KEYPOINT_TEMPLATE @ turn.T
    assert masks.face_roll(points) == pytest.approx(angle, abs=1e-6)


def test_the_hull_holds_every_landmark_and_some_forehead():
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(30, 90, (68, 2))
    landmarks[17:27, 1] = 35  # brows
    landmarks[30] = (60, 65)  # nose tip
    region = masks.hull_region((120, 120), landmarks)
    x, y = np.clip(landmarks.T.astype(int), 0, 119)
    assert region[y, x].mean() > 0.95  # those on the edge may fall on the next pixel
    assert np.nonzero(region)[0].min() < 25


def test_landmarks_give_keypoints():
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = (1, 2), (5, 2)
    landmarks[30], landmarks[48], landmarks[54] = (3, 4), (2, 6), (4, 6)
    expected = [[1, 2], [5, 2], [3, 4], [2, 6], [4, 6]]
    np.testing.assert_array_equal(masks.landmarks_to_keypoints(landmarks), expected)


def test_a_given_mask_overrides_the_ellipse():
    mask = np.zeros((120, 160), bool)
    mask[10:20, 30:40] = True
    face = masks.describe_face(IMAGE, [0, 0, 100, 100], mask=mask)
    assert face.mask is mask


def test_without_keypoints_the_template_is_placed_in_the_box():
    face = masks.describe_face(IMAGE, [20, 10, 70, 80])
    np.testing.assert_allclose(face.keypoints[2], [20 + 0.5 * 50, 10 + 0.588 * 70])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box": [10, 10, 10, 30]}, "empty"),
        ({"box": [0, 0, np.nan, 30]}, "finite"),
        ({"box": [500, 500, 540, 550]}, "no pixel"),
        ({"box": [0, 0, 9, 9], "keypoints": np.zeros((4, 2))}, "keypoints"),
        ({"box": [0, 0, 9, 9], "landmarks": np.zeros((5, 2))}, "landmarks"),
        ({"box": [0, 0, 9, 9], "mask": np.ones((4, 4), bool)}, "mask"),
        ({"box": [0, 0, 9, 9], "image": IMAGE.astype(np.float32)}, "uint8"),
    ],
)
def test_bad_faces_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        masks.describe_face(arguments.pop("image", IMAGE), **arguments)


@pytest.mark.parametrize("size", [1, 3, 12, 60, 300])
def test_soft_masks_stay_inside_and_reach_their_half(size):
    region = np.zeros((size + 20, size + 20), bool)
    region[10 : 10 + size, 10 : 10 + size] = True
    keypoints = 10 + masks.KEYPOINT_TEMPLATE * size
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for soft in (
            masks.soft_face_mask(region, rng),
            masks.soft_parts_mask(region, keypoints, ["eyes", "mouth"], rng),
        ):
            assert soft.dtype == np.float32 and soft.min() >= 0 and soft.max() <= 1
            assert not soft[~region].any()
            assert (soft > 0.5).any()


def test_parts_cover_their_keypoints_and_not_the_others():
    region = np.ones((130, 100), bool)
    keypoints = masks.KEYPOINT_TEMPLATE * (100, 130)
    x, y = keypoints.astype(int).T
    for part, inside, outside in (("eyes", [0, 1], [3, 4]), ("mouth", [3, 4], [0, 1, 2])):
        soft = masks.soft_parts_mask(region, keypoints, [part], np.random.default_rng(1))
        assert (soft[y[inside], x[inside]] > 0).all()
        assert not soft[y[outside], x[outside]].any()

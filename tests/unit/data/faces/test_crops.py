import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.data.faces.crops import (
    Placement,
    clip_box,
    crop_mask,
    crop_with_margin,
    cut_window,
    square_window,
)


@given(st.floats(-20, 60), st.floats(-20, 60), st.floats(1, 40), st.floats(1, 40), st.floats(0, 1))
def test_windows_are_square_and_hold_the_box(x, y, width, height, margin):
    left, top, right, bottom = square_window((x, y, x + width, y + height), margin)
    side = max(width, height) * (1 + 2 * margin)
    assert right - left == bottom - top
    assert abs(right - left - side) <= 0.5 + 1e-6
    assert abs((left + right) / 2 - (x + width / 2)) <= 0.5 + 1e-6
    assert abs((top + bottom) / 2 - (y + height / 2)) <= 0.5 + 1e-6


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (3, 4, 2, 9), (0, 0, float("nan"), 4)])
def test_empty_boxes(box):
    with pytest.raises(ValueError, match="x0 < x1"):
        square_window(box, 0.1)


@given(st.integers(-9, 11), st.integers(-7, 9), st.integers(1, 14))
def test_borders_are_those_of_numpy(left, top, side):
    image = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(10, 12, 3)
    window = (left, top, left + side, top + side)
    pad = 40
    outside = left + side <= 0 or top + side <= 0 or left >= 12 or top >= 10
    for border, mode in (("replicate", "edge"), ("reflect", "reflect"), ("zero", "constant")):
        if outside:
            with pytest.raises(ValueError, match="outside"):
                cut_window(image, window, border)
            continue
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        expected = padded[pad + top : pad + top + side, pad + left : pad + left + side]
        np.testing.assert_array_equal(cut_window(image, window, border), expected)


def test_the_same_box_cuts_the_same_window_of_every_copy(picture):
    image = picture(1, 40, 50)
    box = (20.3, 7.7, 33.1, 21.2)
    brighter = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    one, two = (crop_with_margin(copy, box, 0.2, 0) for copy in (image, brighter))
    np.testing.assert_array_equal(np.clip(one.astype(int) + 3, 0, 255), two)


def test_masks_follow_their_picture():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 30:40] = True
    cut = crop_mask(mask, (30, 10, 45, 25), 0.0, 30)
    assert cut[:20, :20].all()
    assert not cut[:, 20:].any()  # outside of the picture nothing is forged
    assert not cut[20:].any()


def test_whole_pictures_become_square_without_stretching():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, :10] = 200
    crop = crop_with_margin(image, None, 0.5, 20)
    assert crop.shape == (20, 20, 3)
    assert (crop[:, :10] == 200).all()
    assert (crop[:, 10:] == 0).all()


def test_clip_box_bounds_all_frames():
    assert clip_box([(1, 2, 5, 6), (0, 3, 4, 9)]) == (0, 2, 5, 9)
    with pytest.raises(ValueError, match="at least one"):
        clip_box([])


def test_unknown_border():
    with pytest.raises(ValueError, match="replicate, reflect, zero"):
        cut_window(np.zeros((2, 2, 3), np.uint8), (0, 0, 1, 1), "wrap")


def test_placement_scales_about_the_centre_and_shifts_by_shares_of_the_side():
    window = (10, 20, 50, 60)
    assert Placement()(window) == window
    assert Placement(0.5)(window) == (20, 30, 40, 50)
    assert Placement(2.0)(window) == (-10, 0, 70, 80)
    assert Placement(1.0, (0.25, -0.5))(window) == (20, 0, 60, 40)


def test_crop_and_mask_are_placed_alike():
    image = np.zeros((60, 60, 3), np.uint8)
    image[20:40, 20:40] = 255
    box, placement = (15, 15, 45, 45), Placement(1.4, (0.1, 0.2))
    crop = crop_with_margin(image, box, 0.0, 0, placement=placement)
    mask = crop_mask(image[..., 0] > 0, box, 0.0, 0, placement)
    assert crop.shape == (42, 42, 3)
    assert ((crop[..., 0] > 128) == mask).all()
    assert mask.sum() == 20 * 20
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    # The window starts at 30 + 3 - 21 = 12 and at 30 + 6 - 21 = 15
    assert (columns[0], rows[0]) == (20 - 12, 20 - 15)

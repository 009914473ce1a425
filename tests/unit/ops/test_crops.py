import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.data.faces.crops import crop_with_margin, square_window
from comics.ops.crops import (
    crop_faces,
    crop_windows,
    margin_window,
    square_windows,
    usable_boxes,
)

HEIGHT, WIDTH = 40, 56


def picture(seed=0, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_tensor(image):
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


coordinate = st.floats(0, 1, width=32)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda t: (
        min(t[0], t[2]) * (WIDTH - 2),
        min(t[1], t[3]) * (HEIGHT - 2),
        max(t[0], t[2]) * (WIDTH - 2) + 2,
        max(t[1], t[3]) * (HEIGHT - 2) + 2,
    )
)


@given(box=boxes, margin=st.sampled_from([0.0, 0.15, 0.5]))
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_the_training_crops(box, margin):
    single = torch.tensor([box], dtype=torch.float32)
    expected = square_window(single[0].tolist(), margin)
    assert tuple(square_windows(single, margin)[0].tolist()) == expected


@given(
    box=boxes,
    margin=st.sampled_from([0.0, 0.15, 0.6]),
    size=st.sampled_from([1, 7, 16, 48]),
    border=st.sampled_from(["replicate", "reflect"]),
)
@settings(max_examples=60, deadline=None)
def test_crops_are_those_that_methods_are_trained_on(box, margin, size, border):
    image = picture()
    box = torch.tensor([box], dtype=torch.float32)
    ours = crop_faces(as_tensor(image), box, size, margin, border)
    theirs = crop_with_margin(image, box[0].tolist(), margin, size, border)
    difference = np.abs(ours[0].numpy().transpose(1, 2, 0) - theirs)
    assert ours.shape == (1, 3, size, size)
    assert difference.max() <= 1  # OpenCV computes in fixed point, and rounds halves otherwise


def test_whole_picture_of_that_size_is_copied():
    image = as_tensor(picture(height=24, width=24))
    box = torch.tensor([[0.0, 0.0, 24.0, 24.0]])
    assert torch.equal(crop_faces(image, box, 24, 0.0)[0], image.float())


def test_border_is_repeated_or_mirrored():
    image = torch.arange(16, dtype=torch.uint8).view(1, 4, 4).repeat(3, 1, 1)
    corner = torch.tensor([[0.0, 0.0, 2.0, 2.0]])  # margin 0.5: pixels -1 to 2
    repeated = crop_faces(image, corner, 4, 0.5, "replicate")[0, 0]
    mirrored = crop_faces(image, corner, 4, 0.5, "reflect")[0, 0]
    assert repeated[:, 0].tolist() == [0, 0, 4, 8] and repeated[0].tolist() == [0, 0, 1, 2]
    assert mirrored[0].tolist() == [5, 4, 5, 6]


def test_crops_are_alike_whatever_their_number():
    image, size = as_tensor(picture()), 12
    several = torch.tensor([[1.0, 2, 20, 30], [-9, -9, 12, 15], [30, 20, 70, 60], [5, 5, 6, 6]])
    together = crop_faces(image, several, size, 0.2)
    alone = torch.cat([crop_faces(image, several[i : i + 1], size, 0.2) for i in range(4)])
    assert torch.equal(together, alone)
    assert crop_faces(image, several[:0], size, 0.2).shape == (0, 3, size, size)


def test_boxes_without_area_in_the_image_become_a_pixel_in_it():
    given_boxes = torch.tensor([[60.0, 5, 80, 9], [-9, -9, -3, 50], [10, 10, 10, 10]])
    found = usable_boxes(given_boxes, (HEIGHT, WIDTH))
    assert found.tolist() == [[55, 5, 56, 9], [0, 0, 1, 40], [10, 10, 11, 11]]
    assert crop_faces(as_tensor(picture()), given_boxes, 8, 0.1).isfinite().all()


def test_unknown_border():
    with pytest.raises(ValueError, match="replicate, reflect, not 'wrap'"):
        crop_faces(as_tensor(picture()), torch.zeros(0, 4), 8, 0.1, "wrap")


coordinates = st.floats(-50, 150, width=32)


@given(st.tuples(coordinates, coordinates, coordinates, coordinates), st.integers(1, 99),
       st.integers(1, 99))  # fmt: skip
def test_a_window_is_inside_the_picture_and_never_empty(box, height, width):
    left, top, right, bottom = margin_window(box, (height, width), 0.15)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_a_window_has_the_margin_on_every_side():
    assert margin_window((20, 10, 40, 20), (60, 80), 0.15) == (17, 7, 43, 23)
    assert margin_window((20.5, 10.5, 40.2, 20.2), (60, 80), 0) == (20, 10, 41, 21)


@given(box=boxes, margin=st.sampled_from([0.0, 0.15]), grid=st.sampled_from([0.02, 0.08, 0.3]))
@settings(max_examples=60, deadline=None)
def test_windows_snap_to_a_grid_that_scales_with_them(box, margin, grid):
    single = torch.tensor([box], dtype=torch.float32)
    left, top, right, bottom = square_windows(single, margin, grid)[0].tolist()
    x0, y0, x1, y1 = single[0].tolist()
    wanted = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    side = right - left
    assert side == bottom - top >= 1
    # Half a step at most in size and place, and half a pixel or so for whole ones
    assert wanted / (1 + grid) ** 0.5 - 0.6 <= side <= wanted * (1 + grid) ** 0.5 + 0.6
    half_step = grid * (side + 0.5) / 2 + 1.01
    assert abs((left + right) / 2 - (x0 + x1) / 2) <= half_step
    assert abs((top + bottom) / 2 - (y0 + y1) / 2) <= half_step


def test_boxes_that_differ_by_less_than_a_step_mostly_share_a_window():
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(50, 300, (500, 2)), rng.uniform(60, 200, (500, 1))
    boxes = np.concatenate([corner, corner + side], axis=1)
    moved = boxes + rng.uniform(-0.3, 0.3, (500, 4))
    pairs = [torch.from_numpy(one.astype(np.float32)) for one in (boxes, moved)]

    def shared(grid):
        one, other = (square_windows(part, 0.15, grid) for part in pairs)
        return (one == other).all(1).float().mean().item()

    assert shared(0.1) > 0.9 > shared(0.02) > 0.7 > shared(0.0)


def test_crops_on_a_grid_are_its_windows():
    image = as_tensor(picture())
    box = torch.tensor([[11.3, 8.2, 31.9, 27.7]])
    window = square_windows(box, 0.1, 0.2)
    assert window.tolist() != square_windows(box, 0.1).tolist()
    crops = crop_faces(image, box, 16, 0.1, "reflect", 0.2)
    assert torch.equal(crops, crop_windows(image, window, 16, "reflect"))

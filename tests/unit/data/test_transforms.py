"""Joint geometry: image, boxes and masks move together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comics.config import get_cfg, load_config
from comics.data.transforms import (
    Compose,
    HorizontalFlip,
    RandomCrop,
    ResizeShortestSide,
    Rotate,
    crop,
    drop_empty,
    evaluation_geometry,
    resize_faces,
    resize_image,
    rotate,
    shortest_side_size,
    training_geometry,
)
from comics.structures import Faces

FLIP = HorizontalFlip(probability=1.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def box_masks(boxes, height, width):
    """[N, H, W] bool: whole-pixel boxes filled."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def painted(faces):
    """A black image with every mask in white: what the image shows is where the masks are."""
    cover = faces.masks.any(dim=0).numpy() if len(faces) else np.zeros(faces.image_size, bool)
    return np.repeat(cover[..., None] * np.uint8(255), 3, axis=2)


@st.composite
def scenes(draw, smallest=4):
    """Faces with whole-pixel boxes, filled masks, and the image painted from the masks."""
    height, width = draw(st.integers(16, 48)), draw(st.integers(16, 48))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        w, h = draw(st.integers(smallest, width)), draw(st.integers(smallest, height))
        x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        boxes.append([x, y, x + w, y + h])
    boxes = torch.tensor(boxes, dtype=torch.float32)
    faces = Faces(
        boxes=boxes,
        image_size=(height, width),
        labels=torch.arange(len(boxes)) % 2,
        masks=box_masks(boxes, height, width),
    )
    return painted(faces), faces


def bounds(mask):
    """(x0, y0, x1, y1) of a [H, W] bool mask, by plain loops over rows and columns."""
    rows = [y for y in range(mask.shape[0]) if mask[y].any()]
    columns = [x for x in range(mask.shape[1]) if mask[:, x].any()]
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@given(scene=scenes())
def test_flip_twice_is_the_identity(scene):
    image, faces = scene
    again_image, again = FLIP(*FLIP(image, faces, rng()), rng())
    assert np.array_equal(again_image, image)
    assert torch.equal(again.boxes, faces.boxes)
    assert torch.equal(again.masks, faces.masks)


@given(scene=scenes())
def test_flip_moves_boxes_with_masks_and_image(scene):
    image, faces = FLIP(*scene, rng())
    assert np.array_equal(image, painted(faces))
    for box, mask in zip(faces.boxes, faces.masks, strict=True):
        assert torch.equal(box, bounds(mask))


def test_flip_happens_as_often_as_asked():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    generator, flip = rng(1), HorizontalFlip(0.25)
    faces = Faces.empty((2, 2))
    flipped = sum(not np.array_equal(flip(image, faces, generator)[0], image) for _ in range(2000))
    assert abs(flipped / 2000 - 0.25) < 0.04  # four standard deviations


@given(scene=scenes(), factor=st.integers(2, 4))
def test_resizing_by_a_whole_factor_is_exact_for_boxes_and_masks(scene, factor):
    _, faces = scene
    height, width = faces.image_size
    larger = resize_faces(faces, (height * factor, width * factor))
    assert torch.allclose(larger.boxes, faces.boxes * factor)
    expected = faces.masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert (larger.masks ^ expected).float().mean() < 0.05  # bilinear rounds off corners
    for box, mask in zip(larger.boxes, larger.masks, strict=True):
        assert (bounds(mask) - box).abs().max() <= 1


@settings(deadline=None)
@given(scene=scenes(smallest=10), height=st.integers(8, 90), width=st.integers(8, 90))
def test_boxes_and_masks_follow_the_image_under_resize(scene, height, width):
    image, faces = scene
    size = (height, width)
    resized, moved = resize_image(image, size), resize_faces(faces, size)
    assert resized.shape == (*size, 3)
    assert moved.image_size == size
    assume(len(moved) == len(faces))
    differs = (resized[..., 0] > 127) != moved.masks.any(dim=0).numpy()
    # Two masks may each have less than half of a pixel that the image has more than half of
    assert differs.mean() < 0.15
    for box, mask in zip(moved.boxes, moved.masks, strict=True):
        assert (bounds(mask) - box).abs().max() <= 1


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    short=st.integers(1, 1200),
    longest=st.integers(1, 1600),
)
def test_shortest_side_size(size, short, longest):
    height, width = shortest_side_size(size, short, longest)
    assert min(height, width) <= max(short, 1)
    assert max(height, width) <= longest
    scale = min(short / min(size), longest / max(size))
    assert abs(height - size[0] * scale) <= 0.5 + 1e-9 or height == 1
    assert abs(width - size[1] * scale) <= 0.5 + 1e-9 or width == 1
    assert shortest_side_size(size[::-1], short, longest) == (width, height)


def test_shortest_side_examples():
    assert shortest_side_size((600, 800), 800, 1024) == (768, 1024)  # bound by the long side
    assert shortest_side_size((600, 800), 300, 1024) == (300, 400)


def test_resize_transforms_draw_from_their_list():
    image, faces = np.zeros((60, 80, 3), np.uint8), Faces.empty((60, 80))
    resize = ResizeShortestSide((30, 45), 1000)
    heights = {resize(image, faces, rng(seed))[0].shape[0] for seed in range(20)}
    assert heights == {30, 45}
    resized, moved = ResizeShortestSide((45,), 40)(image, faces, rng())
    assert resized.shape[:2] == moved.image_size == (30, 40)


def test_masks_that_vanish_take_their_face_along():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 10, 10] = True  # less than half of a pixel after resizing
    masks[1, 10:50, 10:50] = True
    boxes = torch.tensor([[10.0, 10, 11, 11], [10, 10, 50, 50]])
    faces = Faces(boxes, (64, 64), torch.tensor([0, 1]), masks=masks)
    assert resize_faces(faces, (8, 8)).labels.tolist() == [1]


def test_drop_empty_without_masks():
    boxes = torch.tensor([[1.0, 1, 1, 5], [1, 1, 4, 5]])
    assert drop_empty(Faces(boxes, (9, 9), torch.tensor([0, 1]))).labels.tolist() == [1]


@settings(deadline=None)
@given(scene=scenes(), seed=st.integers(0, 10**6), low=st.floats(0.1, 1.0))
def test_crop_keeps_a_whole_face_and_everything_inside(scene, seed, low):
    image, faces = scene
    cropped, kept = RandomCrop((low, 1.0))(image, faces, rng(seed))
    height, width = cropped.shape[:2]
    assert kept.image_size == (height, width)
    assert height <= image.shape[0]
    assert width <= image.shape[1]
    assert (kept.boxes >= 0).all()
    assert (kept.boxes <= torch.tensor([width, height, width, height])).all()
    sides = {tuple(side) for side in (faces.boxes[:, 2:] - faces.boxes[:, :2]).tolist()}
    assert sides & {tuple(side) for side in (kept.boxes[:, 2:] - kept.boxes[:, :2]).tolist()}
    for box, mask in zip(kept.boxes, kept.masks, strict=True):
        assert torch.equal(bounds(mask), box)
    cover = kept.masks.any(dim=0).numpy()
    assert (cropped[..., 0][cover] == 255).all()


@given(seed=st.integers(0, 1000))
def test_crop_window_sizes_and_an_image_without_faces(seed):
    image = np.zeros((40, 60, 3), np.uint8)
    cropped, kept = RandomCrop((0.5, 0.75))(image, Faces.empty((40, 60)), rng(seed))
    assert 20 <= cropped.shape[0] <= 30
    assert 30 <= cropped.shape[1] <= 45
    assert len(kept) == 0
    assert kept.masks.shape == (0, *cropped.shape[:2])


def test_crop_drops_slivers():
    boxes = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    faces = Faces(boxes, (10, 20), torch.tensor([0, 1]))
    image = np.zeros((10, 20, 3), np.uint8)
    assert crop(image, faces, (0, 0, 10, 10), 0.25)[1].labels.tolist() == [0]
    assert crop(image, faces, (0, 0, 10, 10), 0.1)[1].boxes.tolist() == [
        [0, 0, 10, 10],
        [8, 0, 10, 10],
    ]


@given(scene=scenes(), turns=st.integers(0, 3))
def test_quarter_turns_of_a_square_are_exact(scene, turns):
    _, faces = scene
    side = max(faces.image_size)
    masks = torch.zeros(len(faces), side, side, dtype=torch.bool)
    masks[:, : faces.image_size[0], : faces.image_size[1]] = faces.masks
    square = Faces(faces.boxes, (side, side), faces.labels, masks=masks)
    image, turned = rotate(painted(square), square, 90.0 * turns)
    expected = torch.rot90(masks, turns, (1, 2))
    assert torch.equal(turned.masks, expected)
    assert np.array_equal(image, painted(turned))
    no_masks = Faces(faces.boxes, (side, side), faces.labels)
    by_corners = rotate(painted(square), no_masks, 90.0 * turns)[1]
    for box, corners, mask in zip(turned.boxes, by_corners.boxes, expected, strict=True):
        assert torch.equal(box, bounds(mask))
        assert torch.allclose(corners, box, atol=1e-3)


@settings(deadline=None)
@given(scene=scenes(smallest=8), degrees=st.floats(-60, 60))
def test_boxes_follow_masks_and_image_under_rotation(scene, degrees):
    image, faces = scene
    turned_image, turned = rotate(image, faces, degrees)
    cover = turned.masks.any(dim=0).numpy()
    assert ((turned_image[..., 0] > 127) != cover).mean() < 0.05
    for box, mask in zip(turned.boxes, turned.masks, strict=True):
        assert torch.equal(box, bounds(mask))


@given(degrees=st.floats(-180, 180), x=st.integers(2, 20), y=st.integers(2, 10))
def test_corners_under_rotation_by_trigonometry(degrees, x, y):
    height, width = 200, 300
    box = [100.0 + x, 80.0 + y, 140.0 + x, 120.0 + y]
    faces = Faces(torch.tensor([box]), (height, width), torch.tensor([1]))
    _, turned = rotate(np.zeros((height, width, 3), np.uint8), faces, degrees)
    angle = math.radians(degrees)
    xs, ys = [], []
    for px in (box[0], box[2]):
        for py in (box[1], box[3]):
            dx, up = px - width / 2, height / 2 - py  # y grows downwards
            xs.append(width / 2 + dx * math.cos(angle) - up * math.sin(angle))
            ys.append(height / 2 - (dx * math.sin(angle) + up * math.cos(angle)))
    expected = torch.tensor([[min(xs), min(ys), max(xs), max(ys)]])
    assert torch.allclose(turned.boxes, expected, atol=1e-2)


def test_rotation_fills_and_drops_what_leaves():
    boxes = torch.tensor([[0.0, 0, 4, 4], [20, 20, 30, 30]])
    faces = Faces(boxes, (50, 50), torch.tensor([0, 1]), masks=box_masks(boxes, 50, 50))
    image, turned = rotate(np.zeros((50, 50, 3), np.uint8), faces, 45.0, fill=(9, 8, 7))
    assert turned.labels.tolist() == [1]
    assert image[0, 0].tolist() == [9, 8, 7]
    image, turned = Rotate(10.0)(np.zeros((20, 20, 3), np.uint8), Faces.empty((20, 20)), rng())
    assert len(turned) == 0


def test_geometry_from_configuration():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = [24], 40
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 40
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.ROTATION = True, 5.0
    geometry = training_geometry(cfg)
    kinds = [type(transform) for transform in geometry.transforms]
    assert kinds == [Rotate, RandomCrop, ResizeShortestSide, HorizontalFlip]
    image = np.zeros((48, 64, 3), np.uint8)
    boxes = torch.tensor([[10.0, 10, 40, 40]])
    faces = Faces(boxes, (48, 64), torch.tensor([1]), masks=box_masks(boxes, 48, 64))
    first, second = (geometry(image, faces, rng(3)) for _ in range(2))
    assert torch.equal(first[1].boxes, second[1].boxes)  # the generator alone decides
    assert min(first[0].shape[:2]) <= 24
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.ROTATION, cfg.INPUT.RANDOM_FLIP = False, 0.0, "none"
    assert [type(t) for t in training_geometry(cfg).transforms] == [ResizeShortestSide]
    assert evaluation_geometry(cfg)(image, faces, rng())[0].shape == (20, 27, 3)
    cfg.INPUT.RANDOM_FLIP = "vertical"
    with pytest.raises(ValueError, match="RANDOM_FLIP.*vertical"):
        training_geometry(cfg)


def test_compose_runs_in_order():
    image, faces = np.zeros((10, 20, 3), np.uint8), Faces.empty((10, 20))
    both = Compose((ResizeShortestSide((20,), 40), ResizeShortestSide((5,), 10)))
    assert both(image, faces, rng())[0].shape == (5, 10, 3)


@pytest.mark.parametrize("after", [False, True])
def test_crop_before_resize_enlarges_and_after_it_keeps_the_scale(after):
    cfg = load_config(
        overrides=[
            "INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.5, 0.5]",
            "INPUT.CROP.AFTER_RESIZE", str(after), "INPUT.MIN_SIZE_TRAIN", "[80]",
            "INPUT.MAX_SIZE_TRAIN", "160", "INPUT.RANDOM_FLIP", "none",
        ]
    )  # fmt: skip
    image = np.zeros((80, 120, 3), np.uint8)
    faces = Faces(torch.tensor([[50.0, 30, 60, 40]]), (80, 120), torch.tensor([1]))
    cropped, moved = training_geometry(cfg)(image, faces, np.random.default_rng(0))
    width, height = (moved.boxes[0, 2:] - moved.boxes[0, :2]).tolist()
    assert cropped.shape[:2] == ((40, 60) if after else (80, 120))
    assert (width, height) == ((10, 10) if after else (20, 20))

"""Squares of one photo and of four: size, pixels, faces, what is drawn."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.data.dataset import AUGMENTATION, TrainDataset, augment, read_record
from comics.data.loader import build_train_loader
from comics.data.mosaic import CENTRE, FACE_SHARE, FILL, MIN_VISIBLE, PHOTOS, Mosaic, cut_window
from comics.data.records import FaceAnnotation, ImageRecord
from comics.data.transforms import ResizeShortestSide
from comics.data.views import PhotometricView
from comics.structures import Faces

MARK = 250  # blue of every pixel of ``photo``, unlike that of FILL
SEEDS = st.integers(0, 2**32 - 1)
WINDOWS = st.tuples(st.integers(50, 120), st.integers(50, 120))  # (h, w)


def make_faces(height, width, boxes, labels=None):
    """Faces with masks as rectangular as their whole-numbered boxes."""
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Faces(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        image_size=(height, width),
        labels=torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64),
        masks=masks,
    )


def located(height, width):
    """[height, width, 3] uint8 whose red and green tell row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack((rows, columns, np.full_like(rows, MARK)), axis=-1).astype(np.uint8)


@st.composite
def photos(draw, least_faces=0, most_faces=3, largest_face=200):
    """(image, faces): sides of 4 to 200 pixels, faces of at least 2 pixels a side."""
    height, width = draw(st.integers(4, 200)), draw(st.integers(4, 200))
    boxes = []
    for _ in range(draw(st.integers(least_faces, most_faces))):
        w = draw(st.integers(2, min(width, largest_face)))
        h = draw(st.integers(2, min(height, largest_face)))
        x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        boxes.append((x, y, x + w, y + h))
    labels = [draw(st.integers(0, 1)) for _ in boxes]
    return located(height, width), make_faces(height, width, boxes, labels)


def without_masks(faces):
    return replace(faces, masks=None)


def mask_bounds(mask):
    """(x0, y0, x1, y1) of a mask's pixels, right and bottom exclusive."""
    rows, columns = np.nonzero(mask.numpy())
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# -- every square ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(size=st.integers(8, 150), data=st.data(), count=st.sampled_from([1, PHOTOS]), seed=SEEDS)
def test_a_square_has_its_size_and_its_faces_lie_on_it(size, data, count, seed):
    chosen = [data.draw(photos()) for _ in range(count)]
    image, faces = Mosaic(size, 0.5).lay(chosen, np.random.default_rng(seed))
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert faces.image_size == (size, size)
    assert faces.masks.shape == (len(faces), size, size)
    assert len(faces) <= sum(len(own) for _, own in chosen)
    assert (faces.boxes >= 0).all() and (faces.boxes <= size).all()
    assert (faces.boxes[:, 2:] > faces.boxes[:, :2]).all()
    for box, mask in zip(faces.boxes.tolist(), faces.masks, strict=True):
        # Of a face that is thinner than a pixel, corners of the mask may fill no pixel
        thin = min(box[2] - box[0], box[3] - box[1]) < 1
        np.testing.assert_allclose(mask_bounds(mask), box, atol=2.001 if thin else 1.001)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(60, 150), data=st.data(), seed=SEEDS)
def test_a_mosaic_has_a_face_of_every_photo_with_its_label(size, data, seed):
    drawn = [data.draw(photos(least_faces=1, most_faces=1)) for _ in range(PHOTOS)]
    bare = [(image, without_masks(faces)) for image, faces in drawn]
    _, faces = Mosaic(size, 1.0).lay(bare, np.random.default_rng(seed))
    assert faces.labels.tolist() == [int(own.labels[0]) for _, own in drawn]


@given(data=st.data(), count=st.sampled_from([1, PHOTOS]), seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_masks_change_nothing_and_may_be_absent(data, count, seed):
    drawn = [data.draw(photos(largest_face=30)) for _ in range(count)]
    bare = [(image, without_masks(faces)) for image, faces in drawn]
    mosaic = Mosaic(100, 1.0)
    image, faces = mosaic.lay(drawn, np.random.default_rng(seed))
    same, without = mosaic.lay(bare, np.random.default_rng(seed))
    assert without.masks is None
    assert np.array_equal(image, same)
    assert torch.equal(faces.boxes, without.boxes) and torch.equal(faces.labels, without.labels)


# -- windows of one photo ----------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(photo=photos(largest_face=47), size=WINDOWS, seed=SEEDS)
def test_a_window_without_shrinking_is_a_piece_of_the_photo(photo, size, seed):
    """Faces of at most 47 pixels fit into every window, so none is resampled."""
    image, faces = photo
    part, found = cut_window(image, faces, size, np.random.default_rng(seed))
    top, left, mark = part[0, 0].tolist()
    assert mark == MARK
    bottom, right = min(top + size[0], len(image)), min(left + size[1], image.shape[1])
    if len(image) >= size[0]:
        assert bottom - top == size[0]  # nothing is filled in while there is photo left
    if image.shape[1] >= size[1]:
        assert right - left == size[1]
    expected = np.full((*size, 3), FILL, np.uint8)
    expected[: bottom - top, : right - left] = image[top:bottom, left:right]
    assert np.array_equal(part, expected)
    kept, whole = [], []
    for (x0, y0, x1, y1), label in zip(faces.boxes.tolist(), faces.labels.tolist(), strict=True):
        seen = [max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)]
        area = max(0, seen[2] - seen[0]) * max(0, seen[3] - seen[1])
        if area >= MIN_VISIBLE * (x1 - x0) * (y1 - y0):
            kept.append(([seen[0] - left, seen[1] - top, seen[2] - left, seen[3] - top], label))
            whole.append(seen == [x0, y0, x1, y1])
    assert list(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)) == kept
    assert any(whole) or not len(faces)
    for box, mask in zip(found.boxes.tolist(), found.masks, strict=True):
        assert mask_bounds(mask) == box


@settings(max_examples=80, deadline=None)
@given(photo=photos(least_faces=1, most_faces=1), size=WINDOWS, seed=SEEDS)
def test_a_face_too_large_for_its_window_is_shrunk_and_whole(photo, size, seed):
    image, faces = photo
    _, found = cut_window(image, without_masks(faces), size, np.random.default_rng(seed))
    x0, y0, x1, y1 = faces.boxes[0].tolist()
    factor = min(1, FACE_SHARE * size[0] / (y1 - y0), FACE_SHARE * size[1] / (x1 - x0))
    (box,) = found.boxes.tolist()
    # A photo has a whole number of pixels: its scale is off by half a pixel of its side
    assert box[2] - box[0] == pytest.approx(factor * (x1 - x0), abs=0.51)
    assert box[3] - box[1] == pytest.approx(factor * (y1 - y0), abs=0.51)
    if factor == 1:
        assert (box[2] - box[0], box[3] - box[1]) == (x1 - x0, y1 - y0)


def test_windows_reach_every_place_that_they_may():
    rng = np.random.default_rng(0)
    image, none = located(6, 7), make_faces(6, 7, [])
    corners = {tuple(cut_window(image, none, (4, 4), rng)[0][0, 0, :2]) for _ in range(300)}
    assert corners == {(row, column) for row in range(3) for column in range(4)}
    # A window of 4 that holds columns 3 and 4, rows 0 and 1
    face = make_faces(6, 7, [(3, 0, 5, 2)])
    held = {tuple(cut_window(image, face, (4, 4), rng)[0][0, 0, :2]) for _ in range(300)}
    assert held == {(0, column) for column in range(1, 4)}


def test_each_face_is_drawn():
    """Two faces too far apart for one window: either is the one that is held."""
    image, faces = located(60, 200), make_faces(60, 200, [(0, 0, 30, 30), (170, 20, 200, 50)])
    rng = np.random.default_rng(0)
    left = sum(cut_window(image, faces, (50, 50), rng)[0][0, 0, 1] < 50 for _ in range(200))
    assert 70 < left < 130


# -- four photos -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(size=st.integers(60, 160), seed=SEEDS, tall=st.lists(st.booleans(), min_size=4, max_size=4))
def test_quadrants_are_four_photos_and_faces_stay_in_theirs(size, seed, tall):
    colours = [(10, 0, 0), (0, 20, 0), (0, 0, 30), (40, 40, 0)]
    labels = [0, 1, 1, 0]
    chosen = []
    for colour, label, is_tall in zip(colours, labels, tall, strict=True):
        height, width = (220, 170) if is_tall else (170, 220)
        image = np.full((height, width, 3), colour, np.uint8)
        chosen.append((image, make_faces(height, width, [(80, 70, 95, 85)], [label])))
    image, faces = Mosaic(size, 1.0).lay(chosen, np.random.default_rng(seed))
    across = int((image[0] == colours[0]).all(axis=-1).sum())
    down = int((image[:, 0] == colours[0]).all(axis=-1).sum())
    for length in (across, down):
        assert round(size * CENTRE[0]) <= length <= round(size * CENTRE[1])
    expected = np.empty_like(image)
    areas = [(0, 0, across, down), (across, 0, size, down),
             (0, down, across, size), (across, down, size, size)]  # fmt: skip
    for (x0, y0, x1, y1), colour in zip(areas, colours, strict=True):
        expected[y0:y1, x0:x1] = colour
    assert np.array_equal(image, expected)
    assert faces.labels.tolist() == labels
    for box, mask, (x0, y0, x1, y1) in zip(faces.boxes, faces.masks, areas, strict=True):
        assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
        assert (box[2:] - box[:2]).tolist() == [15, 15]  # whole, at its own scale
        assert mask_bounds(mask) == box.tolist()


def test_photos_without_faces_and_small_ones_fill_a_mosaic():
    chosen = [(located(10, 300), make_faces(10, 300, [])) for _ in range(3)]
    chosen.append((located(20, 20), make_faces(20, 20, [(2, 3, 12, 15)], [1])))
    image, faces = Mosaic(64, 1.0).lay(chosen, np.random.default_rng(1))
    assert faces.labels.tolist() == [1]
    x, y = (int(value) - first for value, first in zip(faces.boxes[0, :2], (2, 3), strict=True))
    assert np.array_equal(image[y : y + 20, x : x + 20], located(20, 20))
    beyond = (image == np.array(FILL, np.uint8)).all(axis=-1)
    assert np.array_equal(beyond, image[..., 2] != MARK) and beyond.any()


# -- what is drawn -----------------------------------------------------------------------------


def state_of(rng):
    return rng.bit_generator.state


@pytest.mark.parametrize("mosaic", [Mosaic(0, 0.5), Mosaic(0, 1.0), Mosaic(64, 0.0)])
def test_nothing_is_drawn_where_there_is_no_choice(mosaic):
    rng = np.random.default_rng(0)
    before = state_of(rng)
    assert mosaic.photos(rng) == 1
    assert state_of(rng) == before


def test_four_photos_are_as_frequent_as_asked():
    rng = np.random.default_rng(0)
    counts = [Mosaic(64, 0.3).photos(rng) for _ in range(4000)]
    assert set(counts) == {1, PHOTOS}
    assert counts.count(PHOTOS) / 4000 == pytest.approx(0.3, abs=0.03)
    assert {Mosaic(64, 1.0).photos(rng) for _ in range(50)} == {PHOTOS}


@given(data=st.data(), count=st.sampled_from([1, PHOTOS]), seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_one_state_of_the_generator_gives_one_square(data, count, seed):
    chosen = [data.draw(photos()) for _ in range(count)]
    one, other = (Mosaic(64, 1.0).lay(chosen, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert torch.equal(one[1].boxes, other[1].boxes) and torch.equal(one[1].masks, other[1].masks)


@pytest.mark.parametrize(
    ("size", "probability", "key"),
    [
        (-1, 0.5, "INPUT.MOSAIC.SIZE"),
        (64, -0.1, "INPUT.MOSAIC.PROB"),
        (64, 1.1, "INPUT.MOSAIC.PROB"),
        (0, float("nan"), "INPUT.MOSAIC.PROB"),
    ],
)
def test_impossible_settings_are_refused_by_key(size, probability, key):
    with pytest.raises(ValueError, match=key):
        Mosaic(size, probability)


# -- in a training set -------------------------------------------------------------------------


def records_of(folder, count):
    """Records of the images that ``make_set`` wrote, each with one face."""
    face = FaceAnnotation(0, (3.0, 4.0, 14.0, 17.0), 1, None, False)
    shapes = [(32, 48) if number % 3 else (48, 32) for number in range(count)]
    return [
        ImageRecord(number, f"images/{number:03d}.png", str(folder), *shape, (face,))
        for number, shape in enumerate(shapes)
    ]


def test_without_a_mosaic_samples_are_as_they_were(make_set, configure, tmp_path):
    """Size 0 draws nothing: a sample is what its generator's first draws make of its photo."""
    cfg = configure(make_set(4))
    records = records_of(tmp_path, 4)
    usual = {"geometry": ResizeShortestSide((24, 28), 48), "view": PhotometricView.from_config(cfg)}
    off = TrainDataset(records, **usual, seed=3, mosaic=Mosaic(0, 1.0))
    none = TrainDataset(records, **usual, seed=3)
    for key in ((0, 1), (7, 3)):
        rng = np.random.default_rng((3, AUGMENTATION, key[0]))
        record = records[key[1]]
        expected = augment([(record, read_record(record))], rng, **usual)
        for dataset in (off, none):
            sample, broken = dataset[key]
            assert broken == [] and sample.record == record
            assert torch.equal(sample.image, expected.image)
            assert torch.equal(sample.faces.boxes, expected.faces.boxes)
            assert torch.equal(sample.faces.masks, expected.faces.masks)


def test_a_sample_is_named_after_its_first_photo(make_set, tmp_path):
    make_set(6)
    records = records_of(tmp_path, 6)
    dataset = TrainDataset(records, ResizeShortestSide((32,), 48), None, 0, mosaic=Mosaic(64, 1.0))
    seen = set()
    for position in range(6):
        sample, _ = dataset[position, 2]
        assert sample.record == records[2]
        assert sample.image.shape == (3, 64, 64) and sample.faces.masks.is_contiguous()
        assert len(sample.faces) == PHOTOS
        own = image_in(sample.image, (0, 0))
        first = read_record(records[2])  # 32 x 48 at its own scale: unchanged but for the window
        assert any(np.array_equal(own, first[y : y + 9, x : x + 9])
                   for y in range(24) for x in range(40))  # fmt: skip
        seen.add(image_in(sample.image, (55, 55)).tobytes())
    assert len(seen) > 1  # the others are drawn


def image_in(image, corner):
    """[9, 9, 3] of a sample's image [3, H, W]."""
    y, x = corner
    return image[:, y : y + 9, x : x + 9].permute(1, 2, 0).numpy()


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def contents(batches):
    """Every tensor of training batches as bytes, with the ids."""
    tensors = [
        [*b.images, *b.key_images, *(t for f in b.targets for t in (f.boxes, f.labels, f.masks))]
        for b in batches
    ]
    return [[t.numpy().tobytes() for t in found] for found in tensors], [
        b.image_ids for b in batches
    ]


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_batches_are_equal_squares(make_set, configure, probability):
    cfg = configure(make_set(7), INPUT__MOSAIC__SIZE=40, INPUT__MOSAIC__PROB=probability)
    batches = take(build_train_loader(cfg), 4)
    counts = set()
    for batch in batches:
        for image in [*batch.images, *batch.key_images]:
            assert image.shape == (3, 40, 40) and image.dtype == torch.uint8
        for faces in batch.targets:
            assert faces.image_size == (40, 40) and faces.masks.shape[1:] == (40, 40)
            counts.add(len(faces) > 2)  # more than a photo of this set has
    assert counts == {0.0: {False}, 0.5: {False, True}, 1.0: {True}}[probability]


def test_workers_and_resuming_change_nothing(make_set, configure):
    keys = {"INPUT__MOSAIC__SIZE": 40, "INPUT__MOSAIC__PROB": 0.5}
    source = make_set(7)
    alone = take(build_train_loader(configure(source, **keys)), 4)
    helped = build_train_loader(configure(source, **keys, DATALOADER__NUM_WORKERS=2))
    assert contents(alone) == contents(take(helped, 4))
    rest = take(build_train_loader(configure(source, **keys), start_iteration=2), 2)
    assert contents(alone[2:]) == contents(rest)


def test_broken_images_of_a_mosaic_are_replaced_and_reported(make_set, configure, tmp_path):
    source = make_set(5)
    (tmp_path / "images/003.png").write_bytes(b"nothing")
    loader = build_train_loader(configure(source, INPUT__MOSAIC__SIZE=40, INPUT__MOSAIC__PROB=1.0))
    batches = take(loader, 3)
    assert all(image.shape == (3, 40, 40) for batch in batches for image in batch.images)
    assert {path[-7:] for path in loader.broken} == {"003.png"}


def test_a_bad_key_is_named_before_training(make_set, configure):
    with pytest.raises(ValueError, match="INPUT.MOSAIC.PROB"):
        build_train_loader(configure(make_set(4), INPUT__MOSAIC__PROB=2.0))

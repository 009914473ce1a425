import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from comics.config import load_config
from comics.inference.placement import as_candidates
from comics.inference.predictor import Predictor
from comics.inference.tiling import (
    CUT_MARGIN,
    Tiling,
    cut_by_border,
    find_places,
    merge_places,
    plan_tiles,
    to_picture,
)
from comics.inference.verdict import VerdictRule, form_verdicts
from comics.structures import FAKE, REAL, Faces

WHOLE = (0, 0, 2000, 1000)
SIZE = (1000, 2000)

sides = st.integers(1, 5000)


@st.composite
def grids(draw):
    tile = draw(st.integers(2, 1200))
    return (draw(sides), draw(sides)), tile, draw(st.integers(0, tile - 1))


@given(grids())
def test_tiles_cover_the_picture_and_stay_inside(grid):
    size, tile, overlap = grid
    if size[0] * size[1] / max(1, tile - overlap) ** 2 > 5000:
        return
    tiles = plan_tiles(size, tile, overlap)
    for axis, length in ((1, size[0]), (0, size[1])):
        spans = sorted({(window[axis], window[axis + 2]) for window in tiles})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert {end - start for start, end in spans} == {min(tile, length)}
        for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
            assert end - start >= overlap
    assert len(tiles) == len(set(tiles))


@given(st.data())
def test_a_face_no_larger_than_the_overlap_is_whole_in_some_tile(data):
    size = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    tile = data.draw(st.integers(200, 1200))
    overlap = data.draw(st.integers(40, tile // 2))
    margin = CUT_MARGIN * tile
    # A face is not taken for a cut one if it also keeps clear of the margins
    largest = overlap - 2 * int(np.ceil(margin)) - 2
    height = data.draw(st.integers(1, min(size[0], largest)))
    width = data.draw(st.integers(1, min(size[1], largest)))
    top = data.draw(st.integers(0, size[0] - height))
    left = data.draw(st.integers(0, size[1] - width))
    box = torch.tensor([[left, top, left + width, top + height]]).float()
    inside = [
        window
        for window in plan_tiles(size, tile, overlap)
        if window[0] <= left
        and window[1] <= top
        and left + width <= window[2]
        and top + height <= window[3]
    ]
    assert inside
    assert not all(cut_by_border(box, window, size).item() for window in inside)


@given(
    st.tuples(st.integers(0, 900), st.integers(0, 900)),
    st.integers(50, 1200),
    st.integers(50, 1200),
    st.floats(0.1, 3),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_coordinates_make_the_round_trip(corner, width, height, scale, shares):
    window = (*corner, corner[0] + width, corner[1] + height)
    seen = (max(1, round(height * scale)), max(1, round(width * scale)))
    x0, x1 = sorted(share * width for share in shares[:2])
    y0, y1 = sorted(share * height for share in shares[2:])
    picture = np.array([corner[0] + x0, corner[1] + y0, corner[0] + x1, corner[1] + y1])
    in_pass = torch.tensor(
        [[x0 / width * seen[1], y0 / height * seen[0], x1 / width * seen[1], y1 / height * seen[0]]]
    ).float()
    found = to_picture(in_pass, seen, window)[0].numpy()
    assert found == pytest.approx(picture, abs=1e-3 * max(seen[0], seen[1], 1))
    outside = torch.tensor([[-50.0, -50, 1e6, 1e6]])
    assert to_picture(outside, seen, window)[0].tolist() == pytest.approx(list(window))


def test_only_inner_borders_cut():
    boxes = torch.tensor([[0.0, 0, 20, 20], [480, 100, 500, 120], [100, 480, 120, 499.5]])
    window = (0, 0, 500, 500)
    assert cut_by_border(boxes, window, (1000, 1000)).tolist() == [False, True, True]
    assert cut_by_border(boxes, window, (500, 1000)).tolist() == [False, True, False]
    assert not cut_by_border(boxes, window, (500, 500)).any()
    assert cut_by_border(boxes, (-0, 0, 500, 500), (500, 500)).tolist() == [False] * 3


@pytest.mark.parametrize(
    ("mode", "size", "tiled"),
    [
        ("never", (4000, 4000), False),
        ("auto", (1599, 3000), False),  # shrunk 1.999 times
        ("auto", (1600, 3000), True),
        ("always", (900, 1024), False),  # as large as a tile
        ("always", (900, 1025), True),
    ],
)
def test_when_a_picture_is_tiled(mode, size, tiled):
    assert bool(Tiling(mode=mode).tiles(size, (800, 1024))) == tiled


@pytest.mark.parametrize(
    "change", [{"mode": "sometimes"}, {"overlap": 1024}, {"overlap": -1}, {"min_shrink": 0.5}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="TEST.TILING"):
        Tiling(**change)


def test_settings_come_from_the_configuration():
    cfg = load_config(overrides=["TEST.TILING.MODE", "auto", "TEST.TILING.SIZE", "640"])
    assert Tiling.from_config(cfg) == Tiling("auto", 640, 256, 2.0)
    assert Tiling.from_config(cfg, "always").mode == "always"
    assert Tiling.from_config(load_config()).mode == "never"


def detections(entries, size=SIZE, masks=False):
    """Faces from (box, label, score)."""
    boxes = torch.tensor([box for box, _, _ in entries]).float().reshape(-1, 4)
    drawn = torch.zeros((len(entries), *size), dtype=torch.bool) if masks else None
    for position, (x0, y0, x1, y1) in enumerate(boxes.int().tolist() if masks else ()):
        drawn[position, y0:y1, x0:x1] = True
    labels = torch.tensor([label for _, label, _ in entries], dtype=torch.int64)
    return Faces(boxes, size, labels, torch.tensor([s for _, _, s in entries]).float(), drawn)


@st.composite
def crowds(draw):
    entries = []
    for _ in range(draw(st.integers(0, 8))):
        x, y = draw(st.integers(0, 60)), draw(st.integers(0, 60))
        box = [x, y, x + draw(st.integers(5, 30)), y + draw(st.integers(5, 30))]
        score = draw(st.integers(1, 1000)) / 1000
        entries.append((box, draw(st.sampled_from([REAL, FAKE])), score))
    return detections(entries, (90, 90), masks=True)


@settings(deadline=None)
@given(crowds(), st.sampled_from([0.3, 0.5]))
def test_one_pass_alone_gives_what_a_picture_without_tiles_gives(faces, iou):
    rule = VerdictRule(merge_iou=iou)
    places = find_places(as_candidates(faces), (0, 0, 90, 90), (90, 90), rule)
    merged = merge_places([places], (90, 90), rule, with_masks=True)
    plain = form_verdicts(faces, rule)
    assert torch.equal(merged.boxes, plain.boxes)
    assert torch.equal(merged.scores, plain.scores)
    assert torch.equal(merged.labels, plain.labels)
    assert torch.allclose(merged.fake_probability, plain.fake_probability)
    assert torch.equal(merged.masks, plain.masks)


def seen_in(window, entries):
    """The places of a tile that is seen at its own size; entries in pixels of the picture."""
    left, top, right, bottom = window
    moved = [
        ([b[0] - left, b[1] - top, b[2] - left, b[3] - top], label, score)
        for b, label, score in entries
    ]
    faces = detections(moved, (bottom - top, right - left))
    return find_places(as_candidates(faces), window, SIZE, VerdictRule())


def merge(*passes):
    return merge_places(passes, SIZE, VerdictRule(), with_masks=False)


LEFT, RIGHT = (0, 0, 1100, 1000), (900, 0, 2000, 1000)


def test_a_face_seen_by_two_tiles_is_one_and_the_highest_scores_count():
    face = [1000.0, 400, 1050, 460]
    nothing = seen_in(WHOLE, [])
    merged = merge(nothing, seen_in(LEFT, [(face, FAKE, 0.9)]), seen_in(RIGHT, [(face, REAL, 0.6)]))
    assert merged.boxes.tolist() == [face]
    assert merged.scores.tolist() == pytest.approx([0.9])
    assert merged.fake_probability.tolist() == pytest.approx([0.9 / 1.5])


def test_the_part_of_a_face_gives_way_to_the_whole():
    whole, part = [1080.0, 400, 1180, 500], [1080.0, 400, 1100, 500]
    tiles = seen_in(LEFT, [(part, FAKE, 0.99)]), seen_in(RIGHT, [(whole, REAL, 0.7)])
    merged = merge(seen_in(WHOLE, []), *tiles)
    assert merged.boxes.tolist() == [whole]
    assert merged.labels.tolist() == [REAL]  # what was said of the part counts for nothing


def test_a_cut_box_that_is_most_of_the_face_yields_box_and_place():
    whole, most = [1040.0, 400, 1120, 500], [1040.0, 400, 1100, 500]  # IoU 0.75
    merged = merge(seen_in(LEFT, [(most, FAKE, 0.95)]), seen_in(RIGHT, [(whole, FAKE, 0.6)]))
    assert merged.boxes.tolist() == [whole]


def test_a_cut_face_that_nothing_else_shows_stays():
    part = [1080.0, 400, 1100, 500]
    merged = merge(seen_in(WHOLE, []), seen_in(LEFT, [(part, FAKE, 0.8)]), seen_in(RIGHT, []))
    assert merged.boxes.tolist() == [part]


def test_a_doubtful_box_does_not_replace_a_sure_part():
    part, doubtful = [1080.0, 400, 1100, 500], [1000.0, 300, 1200, 600]
    merged = merge(seen_in(WHOLE, [(doubtful, REAL, 0.06)]), seen_in(LEFT, [(part, FAKE, 0.8)]))
    assert merged.boxes.tolist() == [part]


def test_a_large_face_is_the_whole_picture_s_and_its_parts_are_dropped():
    face = [800.0, 100, 1300, 900]
    parts = [([800.0, 100, 1100, 900], REAL, 0.9)], [([900.0, 100, 1300, 900], REAL, 0.9)]
    merged = merge(
        seen_in(WHOLE, [(face, FAKE, 0.8)]), seen_in(LEFT, parts[0]), seen_in(RIGHT, parts[1])
    )
    assert merged.boxes.tolist() == [face] and merged.labels.tolist() == [FAKE]


class SquareDetector(nn.Module):
    """Finds white squares that are 12 pixels or larger as it sees them: small ones are lost."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append([tuple(image.shape[1:]) for image in images])
        return [self._find(image.float().mean(0) > 127) for image in images]

    def _find(self, white):
        import scipy.ndimage

        labelled, _ = scipy.ndimage.label(white.numpy())
        found, masks = [], []
        for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(labelled), start=1):
            if min(rows.stop - rows.start, columns.stop - columns.start) >= 12:
                box = [columns.start, rows.start, columns.stop, rows.stop]
                found.append((box, FAKE, 0.9))
                masks.append(torch.from_numpy(labelled == number))
        faces = detections(found, tuple(white.shape))
        empty = torch.zeros((0, *white.shape), dtype=torch.bool)
        return Faces(
            faces.boxes, faces.image_size, faces.labels, faces.scores,
            torch.stack(masks) if masks else empty,
        )  # fmt: skip


def square_predictor(mode):
    tiling = Tiling(mode, size=200, overlap=60)
    return Predictor(
        SquareDetector(), VerdictRule(), min_size=200, max_size=300, max_pixels=10**7,
        tiling=tiling,
    )  # fmt: skip


def test_small_faces_of_a_large_picture_are_found_once_each_with_their_masks():
    rng = np.random.default_rng(0)
    image = np.zeros((600, 900, 3), np.uint8)
    truth = []
    for y in range(10, 560, 75):
        for x in range(10, 850, 75):
            side, dx, dy = rng.integers(20, 33), *rng.integers(0, 15, 2)
            truth.append([x + dx, y + dy, x + dx + side, y + dy + side])
            image[y + dy : y + dy + side, x + dx : x + dx + side] = 255
    (plain,) = square_predictor("never").predict([image])
    assert len(plain) == 0  # 11 pixels at most, as the model sees them
    predictor = square_predictor("always")
    (tiled,) = predictor.predict([image])
    assert sorted(tiled.boxes.round().int().tolist()) == sorted(truth)
    for box, mask in zip(tiled.boxes.round().int().tolist(), tiled.masks, strict=True):
        x0, y0, x1, y1 = box
        expected = torch.zeros(600, 900, dtype=torch.bool)
        expected[y0:y1, x0:x1] = True
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    calls = predictor.model.calls
    assert calls[0] == [(200, 300)] and {s for call in calls[1:] for s in call} == {(200, 200)}
    assert sum(map(len, calls[1:])) == len(plan_tiles((600, 900), 200, 60))


def test_a_face_larger_than_tiles_is_found_once():
    image = np.zeros((600, 900, 3), np.uint8)
    image[100:500, 200:650] = 255
    (found,) = square_predictor("auto").predict([image])
    assert len(found) == 1
    assert found.boxes[0].tolist() == pytest.approx([200, 100, 650, 500], abs=3)  # one seen pixel


def test_pictures_of_a_batch_are_tiled_each_on_its_own():
    large, small = np.zeros((600, 900, 3), np.uint8), np.zeros((150, 150, 3), np.uint8)
    large[300:330, 400:430] = 255
    small[20:60, 20:60] = 255
    found = square_predictor("auto").predict([small, large, small])
    assert [len(faces) for faces in found] == [1, 1, 1]
    assert found[1].boxes.round().int().tolist() == [[400, 300, 430, 330]]
    assert [faces.image_size for faces in found] == [(150, 150), (600, 900), (150, 150)]


def test_provenance_says_how_pictures_were_tiled():
    assert square_predictor("auto").provenance["tiling"] == {
        "mode": "auto", "size": 200, "overlap": 60, "min_shrink": 2.0,
    }  # fmt: skip

"""Target assignment against a naive loop over locations and faces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.modeling.detectors.cells import level_locations
from comics.modeling.detectors.fcos import TargetAssigner

STRIDES, BOUNDS = (8, 16, 32), (24, 48)
SIZES = [(8, 10), (4, 5), (2, 3)]
BACKGROUND = 2


def assigner(**changes) -> TargetAssigner:
    return TargetAssigner(STRIDES, BOUNDS, num_classes=BACKGROUND, **changes)


def naive(boxes, labels, centers, *, center_sample, radius):
    """Rows (label, face, distances) of one image by the definition, one location at a time."""
    bounds = (-1, *BOUNDS, 1e8)
    rows = []
    for level, ((height, width), stride) in enumerate(zip(SIZES, STRIDES, strict=True)):
        for i in range(height):
            for j in range(width):
                x, y = j * stride + stride // 2, i * stride + stride // 2
                best = None
                for face, ((x0, y0, x1, y1), (cx, cy)) in enumerate(
                    zip(boxes, centers, strict=True)
                ):
                    sides = (x - x0, y - y0, x1 - x, y1 - y)
                    inside = min(sides) > 0
                    if center_sample:
                        reach = radius * stride
                        inside &= cx - reach < x < cx + reach and cy - reach < y < cy + reach
                    fits = bounds[level] <= max(sides) <= bounds[level + 1]
                    area = (x1 - x0) * (y1 - y0)
                    if inside and fits and (best is None or area < best[0]):
                        best = (area, face, [s / stride for s in sides])
                if best is None:
                    rows.append((BACKGROUND, -1, [0.0] * 4))
                else:
                    rows.append((labels[best[1]], best[1], best[2]))
    return rows


def level_major(per_image):
    counts = [height * width for height, width in SIZES]
    ordered, start = [], 0
    for count in counts:
        for rows in per_image:
            ordered += rows[start : start + count]
        start += count
    return ordered


coordinate = st.integers(0, 320).map(lambda n: n / 4)  # quarters: exact in float32
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1.0, max(c[1], c[3]) + 1.0)
)
image = st.lists(st.tuples(box, st.integers(0, 1)), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(image, min_size=1, max_size=3), st.booleans(), st.sampled_from([0.5, 1.5]))
def test_equals_the_definition(images, center_sample, radius):
    boxes = [[b for b, _ in faces] for faces in images]
    labels = [[n for _, n in faces] for faces in images]
    expected, offset = [], 0
    for one, names in zip(boxes, labels, strict=True):
        centers = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in one]
        rows = naive(one, names, centers, center_sample=center_sample, radius=radius)
        expected.append([(n, f if f < 0 else f + offset, d) for n, f, d in rows])
        offset += len(one)
    found = assigner(center_sample=center_sample, radius=radius).assign(
        SIZES,
        [torch.tensor(b).reshape(-1, 4) for b in boxes],
        [torch.tensor(n, dtype=torch.int64) for n in labels],
    )
    rows = level_major(expected)
    assert found.labels.tolist() == [row[0] for row in rows]
    assert found.face.tolist() == [row[1] for row in rows]
    torch.testing.assert_close(found.distances, torch.tensor([row[2] for row in rows]))
    assert found.positive.tolist() == [i for i, row in enumerate(rows) if row[1] >= 0]


def test_centers_other_than_the_boxes_are_used():
    box = torch.tensor([[8.0, 8.0, 72.0, 56.0]])
    found = assigner().assign(
        SIZES, [box], [torch.tensor([1])], centers=[torch.tensor([[20.0, 20.0]])]
    )
    points = torch.cat([level_locations(*s, k) for s, k in zip(SIZES, STRIDES, strict=True)])
    chosen = points[found.positive]
    reach = torch.tensor(STRIDES)[found.level[found.positive]] * 1.5
    assert len(chosen) > 0
    assert ((chosen - 20).abs().amax(dim=1) < reach).all()


def test_cells_and_levels_name_the_location():
    found = assigner().assign(SIZES, [torch.zeros(0, 4)] * 2, [torch.zeros(0).long()] * 2)
    for level, (height, width) in enumerate(SIZES):
        for image in range(2):
            here = (found.level == level) & (found.image == image)
            assert found.cell[here].tolist() == list(range(height * width))
    assert len(found.positive) == 0


def test_locations(components):
    for case in components["compute_locations"]:
        assert torch.equal(level_locations(case["h"], case["w"], case["stride"]), case["out"])


def test_bounds_must_fit_the_levels():
    with pytest.raises(ValueError, match="SIZES_OF_INTEREST"):
        TargetAssigner((8, 16), (64, 128), num_classes=2)

import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from comics.ops.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    nonempty,
    scale_boxes,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

coordinate = st.integers(-500, 500).map(float)
boxes = st.lists(st.tuples(*[coordinate] * 4), max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
)


@given(boxes)
def test_formats_are_inverse(b):
    assert torch.equal(xywh_to_xyxy(xyxy_to_xywh(b)), b)
    assert torch.equal(xyxy_to_xywh(b)[:, 2], b[:, 2] - b[:, 0])


@given(boxes, st.integers(1, 50), st.integers(1, 50))
def test_clipped_boxes_lie_inside(b, height, width):
    clipped = clip_boxes(b, (height, width))
    assert ((clipped[:, 0::2] >= 0) & (clipped[:, 0::2] <= width)).all()
    assert ((clipped[:, 1::2] >= 0) & (clipped[:, 1::2] <= height)).all()


def test_nonempty_and_scale():
    b = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 2.0, 1.0], [0.0, 3.0, 1.0, 2.0]])
    assert nonempty(b).tolist() == [True, False, False]
    assert scale_boxes(b[:1], 2, 3).tolist() == [[0.0, 0.0, 2.0, 3.0]]


@given(boxes, boxes)
def test_areas_and_overlaps_are_torchvisions(one, other):
    assert torch.equal(box_area(one), torchvision.ops.box_area(one))
    found, expected = box_iou(one, other), torchvision.ops.box_iou(one, other)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    size = (30, 40)
    assert torch.equal(clip_boxes(one, size), torchvision.ops.clip_boxes_to_image(one, size))

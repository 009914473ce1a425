import torch
from hypothesis import given
from hypothesis import strategies as st

from comics.ops.boxes import clip_boxes, nonempty, scale_boxes, xywh_to_xyxy, xyxy_to_xywh

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

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage

from comics.ops.masks import bitmap_to_rle, mask_centers, rle_to_bitmap, segmentation_to_bitmap

bitmaps = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).map(torch.from_numpy)


@given(bitmaps)
def test_rle_round_trip(bitmap):
    rle = bitmap_to_rle(bitmap)
    assert isinstance(rle["counts"], str)
    assert torch.equal(rle_to_bitmap(rle), bitmap)


@given(bitmaps, st.integers(0, 3), st.integers(0, 3))
def test_an_rle_is_pycocotools(bitmap, left, right):
    """Also where a mask has empty columns beside it, which are not looked at."""
    wide = torch.nn.functional.pad(bitmap, (left, right))
    wanted = coco_mask.encode(np.asfortranarray(wide.numpy().astype(np.uint8)))
    found = bitmap_to_rle(wide)
    assert found["counts"] == wanted["counts"].decode()
    assert found["size"] == wanted["size"]


@given(bitmaps)
def test_uncompressed_rle(bitmap):
    flat = bitmap.numpy().ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)) if len(flat) else np.array([])
    counts = np.diff(np.concatenate(([0], edges, [len(flat)]))).astype(int).tolist()
    rle = {"size": list(bitmap.shape), "counts": counts}
    assert torch.equal(segmentation_to_bitmap(rle, *bitmap.shape), bitmap)


def test_polygon_of_whole_pixels_is_that_rectangle():
    bitmap = segmentation_to_bitmap([[2, 1, 6, 1, 6, 4, 2, 4]], 8, 10)
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(bitmap, expected)


def test_two_parts_are_merged():
    bitmap = segmentation_to_bitmap([[0, 0, 2, 0, 2, 2, 0, 2], [5, 5, 7, 5, 7, 7, 5, 7]], 8, 8)
    assert bitmap.sum() == 8


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "empty list"),
        ([[0, 0, 1, 1]], "3 or more"),
        ([[0, 0, 1, 1, 2, 2, 3]], "3 or more"),
        ([[0, 0, 1, float("nan"), 2, 2]], "not finite"),
        ({"size": [4, 4], "counts": "x"}, r"the mask is \[4, 4\]"),
        ({"size": [5, 4], "counts": [3, 4]}, "cover 7 pixels of 20"),
        ({"size": [5, 4], "counts": [-4, 24]}, "RLE counts"),
        ({"size": [5, 4]}, "counts must be"),
        ({"counts": "x"}, "the mask is"),
    ],
)
def test_faults_are_named(segmentation, message):
    with pytest.raises(ValueError, match=message):
        segmentation_to_bitmap(segmentation, 5, 4)


@given(bitmaps)
def test_centres_are_scipys_centres_of_mass(bitmap):
    boxes = torch.tensor([[2.0, 4.0, 8.0, 5.0]])
    found = mask_centers(bitmap[None], boxes)
    if bitmap.any():
        y, x = ndimage.center_of_mass(bitmap.numpy())
    else:
        x, y = 5.0, 4.5
    torch.testing.assert_close(found, torch.tensor([[x, y]], dtype=torch.float32))


def test_centres_of_no_bitmaps():
    assert mask_centers(torch.zeros(0, 5, 4, dtype=torch.bool), torch.zeros(0, 4)).shape == (0, 2)

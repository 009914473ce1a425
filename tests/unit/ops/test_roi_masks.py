"""Cropping and pasting of masks against naive sampling."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from comics.ops.mask_parts import draw_parts
from comics.ops.roi_masks import crop_and_resize, square_parts

NEAR = 1e-4  # values this near to 0.5 may fall on either side


def paste_masks(masks, boxes, image_size):
    return draw_parts(square_parts(masks, boxes, image_size), image_size)


def naive_crop(mask, box, size):
    """Mean of ceil(bin) samples per direction and bin, half-pixel shift; soft values."""
    height, width = mask.shape

    def at(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        fy, fx = y - y0, x - x0
        top = mask[y0, x0] * (1 - fx) + mask[y0, x1] * fx
        bottom = mask[y1, x0] * (1 - fx) + mask[y1, x1] * fx
        return (top * (1 - fy) + bottom * fy).item()

    x0, y0, x1, y1 = box
    bin_w, bin_h = (x1 - x0) / size, (y1 - y0) / size
    nx, ny = math.ceil(bin_w), math.ceil(bin_h)
    out = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            total = sum(
                at(y0 - 0.5 + (i + (a + 0.5) / ny) * bin_h, x0 - 0.5 + (j + (b + 0.5) / nx) * bin_w)
                for a in range(ny)
                for b in range(nx)
            )
            out[i, j] = total / (nx * ny)
    return out


def test_crop_equals_naive_sampling():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 20, 24, generator=generator) > 0.4
    boxes = torch.tensor([[2.3, 1.7, 19.9, 15.2], [0.0, 0.0, 24.0, 20.0], [-3.0, 4.0, 9.0, 23.5]])
    found = crop_and_resize(masks, boxes, 5)
    for mask, box, crop in zip(masks.double(), boxes.tolist(), found, strict=True):
        soft = naive_crop(mask, box, 5)
        decided = (soft - 0.5).abs() > NEAR
        assert decided.sum() > 10
        assert torch.equal(crop[decided], (soft >= 0.5)[decided])


def test_boxes_may_name_the_mask_that_they_cut():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(2, 20, 24, generator=generator) > 0.4
    boxes = torch.tensor([[2.3, 1.7, 19.9, 15.2], [0.0, 0.0, 24.0, 20.0], [1.0, 4.0, 9.0, 19.5]])
    index = torch.tensor([1, 0, 1])
    expected = crop_and_resize(masks[index], boxes, 5)
    assert torch.equal(crop_and_resize(masks, boxes, 5, index), expected)


def test_crop_of_nothing():
    assert crop_and_resize(torch.zeros(0, 9, 9).bool(), torch.zeros(0, 4), 7).shape == (0, 7, 7)


def pasted_by_grid_sample(mask, box, height, width):
    """Soft canvas by bilinear sampling of the whole image's grid."""
    x0, y0, x1, y1 = box
    y = ((torch.arange(height) + 0.5).double() - y0) / (y1 - y0) * 2 - 1
    x = ((torch.arange(width) + 0.5).double() - x0) / (x1 - x0) * 2 - 1
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    grid = torch.stack((grid_x, grid_y), dim=-1)[None]
    return functional.grid_sample(mask[None, None].double(), grid, align_corners=False)[0, 0]


coordinate = st.floats(-20, 60, width=32)
boxes = st.tuples(coordinate, coordinate, st.floats(0.5, 50), st.floats(0.5, 50))


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(2, 9), st.integers(0, 2**20))
def test_paste_equals_sampling_the_whole_canvas(corner_and_size, size, seed):
    x, y, w, h = corner_and_size
    box = torch.tensor([[x, y, x + w, y + h]])
    mask = torch.rand(1, size, size, generator=torch.Generator().manual_seed(seed))
    found = paste_masks(mask, box, (31, 37))[0]
    soft = pasted_by_grid_sample(mask[0], box[0].double().tolist(), 31, 37)
    decided = (soft - 0.5).abs() > NEAR
    assert torch.equal(found[decided], (soft >= 0.5)[decided])


def test_a_full_mask_fills_its_box():
    boxes = torch.tensor([[3.0, 4.0, 10.0, 9.0], [-5.0, -5.0, 100.0, 100.0], [2.0, 2.0, 2.0, 8.0]])
    found = paste_masks(torch.ones(3, 28, 28), boxes, (12, 15))
    expected = torch.zeros(3, 12, 15, dtype=torch.bool)
    expected[0, 4:9, 3:10] = True
    expected[1] = True  # the third box has no area
    assert torch.equal(found, expected)


def test_crop_then_paste_returns_a_smooth_mask():
    rows, columns = torch.meshgrid(torch.arange(120), torch.arange(150), indexing="ij")
    mask = ((columns - 70) / 50.0) ** 2 + ((rows - 60) / 40.0) ** 2 < 1
    box = torch.tensor([[20.0, 20, 121, 101]])
    back = paste_masks(crop_and_resize(mask[None], box, 56).float(), box, (120, 150))[0]
    assert (back & mask).sum() / (back | mask).sum() > 0.97


@pytest.mark.parametrize("count", [0, 2])
def test_paste_shapes_and_autocast(count):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = paste_masks(
            torch.full((count, 14, 14), 0.501),
            torch.tensor([[1.0, 1, 5, 5]] * count).view(-1, 4),
            (8, 9),
        )
    assert found.shape == (count, 8, 9)
    assert found.dtype == torch.bool
    assert found.flatten(1).sum(1).tolist() == [16] * count

"""Heat maps as results keep them."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from comics.inference.heat_grids import HeatGrid, heat_grids


def png(array, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_map_survives_json():
    heat = torch.tensor([[[0.0, 0.5], [1.0, 0.25]]])
    (grid,) = heat_grids(heat, torch.tensor([[-3, 4, 17, 30]]))
    assert grid.bbox == (-3, 4, 20, 26)  # it may reach outside the picture
    back = HeatGrid.from_entry(json.loads(json.dumps(grid.entry())))
    assert back == grid
    with Image.open(io.BytesIO(base64.b64decode(back.png))) as image:
        assert np.asarray(image).tolist() == [[0, 128], [255, 64]]


GREY = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    "told",
    [
        None, 3, [], {}, {"bbox": [0, 0, 4, 4]}, {"bbox": [0, 0, 4, 4], "png": 7},
        {"bbox": [0, 0, 0, 4], "png": png(GREY)}, {"bbox": [0, 0, 4], "png": png(GREY)},
        {"bbox": [0, 0, 4, float("nan")], "png": png(GREY)},
        {"bbox": [0, 0, 4, float("inf")], "png": png(GREY)},
        {"bbox": [0, 0, 4, 4], "png": "javascript:alert(1)"},
        {"bbox": [0, 0, 4, 4], "png": base64.b64encode(b"<svg onload=alert(1)>").decode()},
        {"bbox": [0, 0, 4, 4], "png": png(GREY, "BMP")},
        {"bbox": [0, 0, 4, 4], "png": png(np.zeros((2, 400), np.uint8))},
        {"bbox": [0, 0, 4, 4], "png": png(GREY)[:60]},
        {"bbox": [0, 0, 4, 4], "png": "A" * 10**7},
    ],
)  # fmt: skip
def test_what_a_stranger_wrote_is_no_heat_map(told):
    assert HeatGrid.from_entry(told) is None


def test_nothing_but_pixels_is_taken_over():
    buffer = io.BytesIO()
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "<script>alert(1)</script>")
    Image.fromarray(np.full((3, 3, 3), 200, np.uint8)).save(buffer, "PNG", pnginfo=info)
    text = base64.b64encode(buffer.getvalue()).decode()
    grid = HeatGrid.from_entry({"bbox": [0, 0, 9, 9], "png": text})
    assert grid is not None and b"script" not in base64.b64decode(grid.png)

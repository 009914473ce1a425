from pathlib import PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from comics.inference.files import FileOutputs
from comics.runs.pictures import write_crops
from comics.structures import Faces


def faces_at(*boxes):
    count = len(boxes)
    return Faces(
        torch.tensor(boxes).float().reshape(count, 4), (60, 80), torch.zeros(count).long(),
        torch.ones(count),
    )  # fmt: skip


def test_a_crop_of_every_face(tmp_path):
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:50] = (250, 0, 0)
    outputs = FileOutputs(tmp_path, PurePath("sub/photo"))
    names = write_crops(outputs, image, faces_at([30, 20, 50, 40], [0, 0, 10, 10]))
    assert names == ["crops/sub/photo.1.jpg", "crops/sub/photo.2.jpg"]
    with Image.open(tmp_path / names[0]) as crop:
        assert crop.size == (26, 26)  # 20 pixels and a margin of 0.15 of them on each side
        assert crop.getpixel((13, 13)) == pytest.approx((250, 0, 0), abs=8)
    with Image.open(tmp_path / names[1]) as crop:
        assert crop.size == (12, 12)  # cut at the picture's corner
    assert write_crops(outputs, image, faces_at([1, 1, 9, 9]), frame=7) == [
        "crops/sub/photo.7.1.jpg"
    ]
    assert write_crops(outputs, image, faces_at()) == []

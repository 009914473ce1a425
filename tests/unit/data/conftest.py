"""Small multi-face sets on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from comics.config import get_cfg

CATEGORIES = [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]


def picture(height, width, seed=0):
    """Smooth random [height, width, 3] uint8: survives JPEG well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def coco():
    """One image (id 0, 40 x 30), a real face (id 0, RLE-free polygon) and a fake one (id 1)."""
    return {
        "images": [{"id": 0, "file_name": "Images/Train/a.png", "width": 40, "height": 30}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 0,
                "bbox": [2, 3, 10, 8],
                "segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]],
                "iscrowd": 0,
            },
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 5, 12, 20]},
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


@pytest.fixture
def write_set(tmp_path):
    """Writes a dict as <tmp_path>/set.json, and its images unless told not to."""

    def write(content, images=True):
        if images:
            for seed, entry in enumerate(content["images"]):
                path = tmp_path / entry["file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(entry["height"], entry["width"], seed)).save(path)
        path = tmp_path / "set.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def make_set(write_set):
    """Writes a set of ``count`` images of alternating shape, two faces in each."""

    def make(count, extension="png"):
        content = {
            "images": [],
            "annotations": [],
            "categories": [dict(category) for category in CATEGORIES],
        }
        for number in range(count):
            width, height = (48, 32) if number % 3 else (32, 48)
            name = f"images/{number:03d}.{extension}"
            content["images"].append(
                {"id": number, "file_name": name, "width": width, "height": height}
            )
            for label in (0, 1):
                x, y = 3 + 14 * label, 4 + number % 5
                content["annotations"].append(
                    {
                        "id": 2 * number + label,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x, y, 11, 13],
                        "segmentation": [[x, y, x + 11, y, x + 11, y + 13, x, y + 13]],
                    }
                )
        return write_set(content)

    return make


@pytest.fixture
def configure():
    """Builds a small configuration for a set; keys by keyword, dots as double underscores."""

    def build(source, **overrides):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN = [str(source)]
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = [24, 28], 48
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 24, 48
        cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 4, 0
        pairs = [(key.replace("__", "."), value) for key, value in overrides.items()]
        cfg.merge_from_list([item for pair in pairs for item in pair])
        return cfg

    return build

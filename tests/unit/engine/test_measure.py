import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from comics.config import load_config
from comics.data.records import DatasetError
from comics.engine.measure import iou_types, measure, measured_sets
from comics.structures import Faces

SIDE = 32
BOX = (4, 6, 20, 26)


def write_set(path, category_ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    x0, y0, x1, y1 = BOX
    content = {
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(category_ids, ("Real", "Fake"), strict=True)
        ],
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": SIDE, "width": SIDE} for k in range(2)
        ],
        "annotations": [
            {
                "id": k,
                "image_id": k,
                "category_id": category_ids[k],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
            for k in range(2)
        ],
    }
    path.write_text(json.dumps(content))
    for k in range(2):
        Image.fromarray(np.full((SIDE, SIDE, 3), 100 * k, dtype=np.uint8)).save(
            path.parent / f"{k}.png"
        )
    return str(path)


class Oracle(nn.Module):
    """Finds the one face of each image; dark images are real, if it says so."""

    def __init__(self, inverted=False):
        super().__init__()
        self.inverted = inverted

    def forward(self, images, output_sizes):
        assert not self.training
        return [self.face(image, size) for image, size in zip(images, output_sizes, strict=True)]

    def face(self, image, size):
        label = int(image.float().mean() > 50) ^ int(self.inverted)
        x0, y0, x1, y1 = BOX
        masks = torch.zeros(1, *size, dtype=torch.bool)
        masks[0, y0:y1, x0:x1] = True
        return Faces(
            boxes=torch.tensor([BOX], dtype=torch.float32),
            image_size=tuple(size),
            labels=torch.tensor([label]),
            scores=torch.tensor([0.9]),
            masks=masks,
        )


def config(tmp_path, *overrides):
    return load_config(
        None,
        ["OUTPUT_DIR", str(tmp_path / "out"), "DATALOADER.NUM_WORKERS", "0", *overrides],
    )


@pytest.mark.parametrize("category_ids", [(0, 1), (7, 3)])
def test_oracle_is_measured_as_perfect_on_each_set_and_on_the_mean(tmp_path, category_ids):
    entries = [write_set(tmp_path / name / "val.json", category_ids) for name in ("a", "b")]
    cfg = config(tmp_path)
    sets = measured_sets(cfg, entries)
    found = measure(cfg, Oracle().eval(), sets, torch.device("cpu"))
    for name in ("bbox/AP", "segm/AP", f"{entries[0]}/segm/AP", f"{entries[1]}/bbox/AP"):
        assert found.figures[name] == pytest.approx(1.0)
    assert found.skipped == []
    results = [json.loads(one.results.read_text()) for one in sets]
    assert [len(result) for result in results] == [2, 2]
    assert {entry["category_id"] for entry in results[0]} == set(category_ids)


def test_wrong_classes_are_measured_as_wrong(tmp_path):
    cfg = config(tmp_path)
    sets = measured_sets(cfg, [write_set(tmp_path / "val.json", (0, 1))])
    found = measure(cfg, Oracle(inverted=True).eval(), sets, torch.device("cpu"))
    assert found.figures["bbox/AP"] == 0.0
    assert found.figures["bbox/AP_agnostic"] == pytest.approx(1.0)
    assert not any(str(tmp_path) in name for name in found.figures)


def test_unreadable_image_is_told_and_the_rest_measured(tmp_path):
    entry = write_set(tmp_path / "val.json", (0, 1))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    cfg = config(tmp_path, "MODEL.MASK_ON", "False")
    sets = measured_sets(cfg, [entry])
    found = measure(cfg, Oracle().eval(), sets, torch.device("cpu"))
    assert found.skipped == [str(tmp_path / "1.png")]
    assert found.figures["bbox/AP/Real"] == pytest.approx(1.0)
    assert found.figures["bbox/AP/Fake"] == 0.0
    assert iou_types(cfg) == ["bbox"] and "segm/AP" not in found.figures


def test_size_without_faces_is_undefined(tmp_path):
    cfg = config(tmp_path)
    sets = measured_sets(cfg, [write_set(tmp_path / "val.json", (0, 1))])
    found = measure(cfg, Oracle().eval(), sets, torch.device("cpu"))
    assert math.isnan(found.figures["bbox/AP_L"])


def test_unusable_set_is_refused_before_training(tmp_path):
    entry = write_set(tmp_path / "val.json", (0, 1))
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][1]["id"] = 0
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="val.json cannot be used"):
        measured_sets(config(tmp_path), [entry])

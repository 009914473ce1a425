"""A picture that a model says no number of fails; it is not "no face found"."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from comics.modeling.build import build_model
from comics.registry import DETECTORS
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import exit_code, run_inference
from comics.structures import Faces, NotFiniteError

PLAIN = sorted(name for name, _ in DETECTORS)


@pytest.mark.parametrize("name", [*PLAIN, "COMICSBlendMask"])
def test_a_detector_of_broken_weights_finds_no_faces_in_silence(tiny_config, name):
    torch.manual_seed(0)
    model = build_model(tiny_config(name)).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    model([image])
    for parameter in (getattr(model, "detector", model)).backbone.parameters():
        parameter.data.fill_(float("nan"))
        break
    with torch.no_grad(), pytest.raises(NotFiniteError):
        model([image])


def test_a_broken_head_of_pooled_boxes_is_seen_too(tiny_config):
    torch.manual_seed(0)
    model = build_model(tiny_config("MaskRCNN")).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    head = model.get_submodule(model.pooled_heads[0])
    next(head.parameters()).data.fill_(float("nan"))
    with torch.no_grad(), pytest.raises(NotFiniteError):
        model([image])


class PartlyBroken:
    """Finds nothing, and says no number of dark pictures."""

    max_pixels = 10**6
    provenance = {"model": "partly broken"}

    def predict(self, images):
        if any(image.mean() < 50 for image in images):
            raise NotFiniteError("no finite number")
        return [Faces.empty(image.shape[:2]) for image in images]


def test_the_other_pictures_of_a_run_go_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, level in (("a", 200), ("b", 10), ("c", 200)):
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(folder / f"{name}.png")
    found = expand_inputs([folder], exclude=tmp_path / "out")
    options = RunOptions(tmp_path / "out", batch_size=3)
    files = run_inference(PartlyBroken(), found, options, lambda line: None).files
    assert {f.file_name[-5:]: f.status for f in files} == {
        "a.png": "ok", "b.png": "failed", "c.png": "ok",
    }  # fmt: skip
    (failed,) = [f for f in files if f.status == "failed"]
    assert "no verdict" in failed.reason and failed.verdict is None
    assert exit_code(files) != 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["files"]) == 3

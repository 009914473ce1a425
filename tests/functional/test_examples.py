"""Examples of Python in README, docs and docstrings run as they stand."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import comics
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 128)


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


def docstring_block():
    """What follows "In short::"."""
    return "\n".join(
        line[4:] for line in comics.__doc__.split("In short::")[1].splitlines()
    )  # fmt: skip


EXAMPLES = {
    "README, predict": blocks("README.md")[0],
    "README, evaluate": blocks("README.md")[1],
    "docs/index.md": blocks("docs/index.md")[0],
    "comics": "import comics\n" + docstring_block(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finding_config):
    """What the examples name: a photo, a clip, a model file, annotations and results."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "photo.jpg")
    with av.open(folder / "clip.mp4", "w") as clip:
        stream = clip.add_stream("libx264", rate=5)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(stream.encode())
    torch.manual_seed(0)
    cfg = finding_config("BlendMask")
    save_weights(folder / "model.safetensors", build_model(cfg).state_dict(), cfg, {})
    box = [10.0, 10.0, 40.0, 50.0]
    polygon = [[10, 10, 50, 10, 50, 60, 10, 60]]
    truth = {
        "images": [{"id": 1, "file_name": "photo.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2000.0,
                         "iscrowd": 0, "segmentation": polygon}],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
    }  # fmt: skip
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9,
                "segmentation": polygon}]  # fmt: skip
    (folder / "ground_truth.json").write_text(json.dumps(truth), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COMICS_WEIGHTS", str(folder / "model.safetensors"))
    variables = {}
    exec(compile(EXAMPLES[name], name, "exec"), variables)
    said = capsys.readouterr().out
    if "photo.jpg" in EXAMPLES[name]:
        assert len(variables["faces"]) > 0
    if "evaluate" in name:
        assert "100.0" in said  # the detection is the annotated face
    for written in re.findall(r'(?:save|to_csv)\("(.+?)"\)', EXAMPLES[name]):
        assert (folder / written).stat().st_size > 0

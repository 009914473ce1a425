"""How often a step would wait for a GPU (tools/lab/count_waits.py); docs/benchmarks.md has all."""

import importlib.util
from pathlib import Path

import pytest
import torch
from two_faces import sample

from comics.modeling.build import build_model
from comics.structures import Faces

QUICK = "COMICSBlendMask"
MOST_OF_A_STEP = 20
MOST_WITHOUT_DETECTIONS = 6
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("count_waits", ROOT / "tools/lab/count_waits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(config):
    torch.manual_seed(0)
    model = build_model(config).train()
    model.prepare_training()
    return model


@pytest.mark.parametrize("name", ["COMICSBlendMask", "COMICSMaskRCNN"])
def test_a_training_step_waits_rarely(tool, tiny_config, name):
    """With banks that hold keys, and proposals that overlap their faces."""
    model = prepared(tiny_config(name, "MODEL.COMICS.PROPOSAL.MATCH", "iou",
                                 "MODEL.COMICS.PROPOSAL.MATCH_IOU", "0.1"))  # fmt: skip
    images, targets = zip(*(sample((64, 96), seed) for seed in (0, 1)), strict=True)
    for _ in range(2):
        waits = tool.count_step(model, list(images), list(targets))
    assert waits.total <= MOST_OF_A_STEP, waits.places.most_common()
    assert waits.total > 5  # the counter sees what cannot be avoided


def test_a_picture_without_faces_waits_rarely(tool, tiny_config):
    model = prepared(tiny_config("COMICSBlendMask", "MODEL.FCOS.SCORE_THRESH_TEST", "0.9"))
    image, _ = sample((64, 96), 0)
    waits = tool.count_inference(model, [image])
    assert waits.total <= MOST_WITHOUT_DETECTIONS, waits.places.most_common()


def test_the_counter_sees_what_waits_and_nothing_else(tool):
    x, mask = torch.arange(6.0), torch.tensor([True, False] * 3)
    rows = torch.tensor([0, 2])

    def waits(work):
        with tool.Waits() as counted:
            work()
        return counted.total

    assert waits(lambda: x[mask]) == 1
    assert waits(lambda: x.sum().item()) == 1
    assert waits(lambda: bool(mask.any())) == 1
    assert waits(lambda: x.tolist()) == 1
    assert waits(lambda: mask.nonzero()) == 1
    assert waits(lambda: torch.bincount(rows)) == 1
    assert waits(lambda: x.new_tensor([1.0])) == 1
    assert waits(lambda: torch.tensor([1.0], device=x.device)) == 1
    assert waits(lambda: rows.repeat_interleave(rows)) == 1
    assert waits(lambda: x[rows] + torch.where(mask, x, 0.0)[:2]) == 0
    assert waits(lambda: rows.repeat_interleave(2)) == 0
    assert waits(lambda: x.masked_fill(mask, 0.0)) == 0
    learnt = x.clone().requires_grad_()
    assert waits(lambda: learnt[mask].sum().backward()) == 2  # once more in the backward pass


def test_every_parameter_gets_a_gradient_with_and_without_faces(any_detector, tiny_config):
    """Else DistributedDataParallel would wait for one (SOLVER.FIND_UNUSED_PARAMETERS)."""
    words = ["MODEL.COMICS.PIXEL.ENABLED", "False"] if any_detector == "COMICSFCOS" else []
    model = prepared(tiny_config(any_detector, *words))
    image, faces = sample((64, 96), 0)
    keys = {"key_images": [image]} if getattr(model, "needs_key_images", False) else {}
    for target in (faces, Faces.empty((64, 96))):
        model.zero_grad()
        sum(model([image], [target], **keys).losses.values()).backward()
        without = [
            name for name, p in model.named_parameters() if p.requires_grad and p.grad is None
        ]
        assert not without, f"{len(target)} faces"

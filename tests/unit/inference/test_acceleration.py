import pytest
import torch
from torch import nn

from comics.inference.acceleration import autocast, compile_backbones
from comics.inference.predictor import Predictor
from comics.inference.verdict import VerdictRule

CPU = torch.device("cpu")


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.detector = Detector()


def test_mixed_precision_is_for_cuda_only():
    layer = nn.Linear(4, 4)
    for device, enabled in ((CPU, True), (CPU, False), (torch.device("cuda"), False)):
        with autocast(device, enabled):
            assert layer(torch.zeros(1, 4)).dtype == torch.float32
    predictor = Predictor(
        Detector(), VerdictRule(), min_size=8, max_size=8, max_pixels=64, amp=True
    )
    assert predictor.provenance["mixed_precision"] is False


def test_backbones_are_compiled_wherever_they_are(monkeypatch):
    compiled = []

    def compile_module(module, **options):
        compiled.append((module, options))
        return nn.Sequential(module)

    monkeypatch.setattr(torch, "compile", compile_module)
    model = Wrapper()
    backbone = model.detector.backbone
    compile_backbones(model, CPU)
    assert compiled == [(backbone, {"dynamic": True})]
    assert model.detector.backbone[0] is backbone


def test_a_machine_that_cannot_compile_is_told_so(monkeypatch):
    def fails(*_, **__):
        def call(_):
            raise RuntimeError("no C++ compiler\nmany more lines")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    model = Wrapper()
    backbone = model.detector.backbone
    with pytest.raises(ValueError, match="cannot be compiled here: no C\\+\\+ compiler$"):
        compile_backbones(model, CPU)
    assert model.detector.backbone is backbone

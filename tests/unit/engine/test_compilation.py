import copy

import pytest
import torch
from torch import nn

from comics.config import get_cfg
from comics.engine import compilation
from comics.engine.compilation import compile_features, uncompiled
from comics.modeling.build import build_model

CPU = torch.device("cpu")


def face_method():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.METHOD", "CrossEntropy",
         "MODEL.FACE.ENCODER", "SmallResNet", "MODEL.FACE.CROP_SIZE", 16]
    )  # fmt: skip
    model = build_model(cfg).train()
    model.prepare_training()
    return model


def gradients(model, crops):
    model.feature_map(crops).square().mean().backward()
    return {name: p.grad for name, p in model.encoder.named_parameters()}


def test_compiled_encoder_has_the_gradients_and_names_of_the_plain_one():
    torch.manual_seed(0)
    plain = face_method()
    compiled = copy.deepcopy(plain)
    compile_features(compiled, CPU)
    crops = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)

    expected, got = gradients(plain, crops), gradients(compiled, crops)

    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-5)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_validation_runs_uncompiled():
    class Noting(nn.Module):
        def forward(self, x):
            ran_as.append("compiled" if torch.compiler.is_compiling() else "written")
            return x

    ran_as = []
    model = nn.Module()
    model.backbone = Noting()
    compile_features(model, CPU)
    with uncompiled():
        model.backbone(torch.zeros(2))
    assert ran_as == ["written"]


def test_a_machine_without_a_compiler_is_told(monkeypatch):
    def broken(function):
        raise RuntimeError("No working C++ compiler found\nlong story")

    monkeypatch.setattr(compilation.torch, "compile", broken)
    with pytest.raises(ValueError, match=r"SOLVER.COMPILE: .*No working C\+\+ compiler found$"):
        compile_features(nn.Module(), CPU)

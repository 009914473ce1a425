import math

import pytest
import torch
from torch import nn

from comics.config import load_config
from comics.engine.optim import build_optimizer, optimizer_from_config, scheduler_from_config


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.batch = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(
            nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4, affine=True)
        )
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.shared = self.conv


def names_by_decay(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["weight_decay"]: sorted(names[id(p)] for p in group["params"])
        for group in optimizer.param_groups
    }


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_norm_layers_have_their_own_decay(name):
    model = Mixed()
    cfg = load_config(None, ["SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", "0.05"])
    optimizer = optimizer_from_config(cfg, model)
    assert type(optimizer).__name__ == name
    assert names_by_decay(model, optimizer) == {
        0.05: ["conv.bias", "conv.weight"],
        0.0: sorted(
            f"{layer}.{kind}"
            for layer in ("batch", "inner.0", "inner.1", "inner.2")
            for kind in ("weight", "bias")
        ),
    }


def test_sgd_has_momentum_of_the_configuration():
    cfg = load_config(None, ["SOLVER.MOMENTUM", "0.8"])
    assert {group["momentum"] for group in optimizer_from_config(cfg, Mixed()).param_groups} == {
        0.8
    }


@pytest.mark.parametrize("name, model", [("Adagrad", Mixed()), ("SGD", nn.ReLU())])
def test_bad_optimizer(name, model):
    match = "SOLVER.OPTIMIZER.*'Adagrad'" if name == "Adagrad" else "no trainable parameter"
    with pytest.raises(ValueError, match=match):
        build_optimizer(
            model, name=name, base_lr=1, weight_decay=0, weight_decay_norm=0, momentum=0
        )


def rates(overrides, iterations):
    model = nn.Linear(1, 1)
    cfg = load_config(None, [word for pair in overrides.items() for word in pair])
    optimizer = optimizer_from_config(cfg, model)
    scheduler = scheduler_from_config(cfg, optimizer)
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_multistep_rates():
    overrides = {
        "SOLVER.BASE_LR": "0.4",
        "SOLVER.WARMUP_ITERS": "4",
        "SOLVER.WARMUP_FACTOR": "0.5",
        "SOLVER.STEPS": "[6,8]",
        "SOLVER.GAMMA": "0.1",
    }
    expected = [0.2, 0.25, 0.3, 0.35, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    assert rates(overrides, 10) == pytest.approx(expected)


def test_cosine_rates():
    overrides = {
        "SOLVER.BASE_LR": "2.0",
        "SOLVER.WARMUP_ITERS": "0",
        "SOLVER.MAX_ITER": "8",
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
    }
    expected = [1 + math.cos(math.pi * k / 8) for k in range(9)]
    assert rates(overrides, 9) == pytest.approx(expected)


@pytest.mark.parametrize(
    "key, value, match",
    [
        ("SOLVER.LR_SCHEDULER_NAME", "StepLR", "WarmupMultiStepLR.*'StepLR'"),
        ("SOLVER.STEPS", "[8,6]", r"must ascend, got \[8, 6\]"),
    ],
)
def test_bad_schedule(key, value, match):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    with pytest.raises(ValueError, match=match):
        scheduler_from_config(load_config(None, [key, value]), optimizer)


def test_schedule_state_is_plain(tmp_path):
    cfg = load_config(None, [])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    scheduler = scheduler_from_config(cfg, optimizer)
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["last_epoch"] == 0

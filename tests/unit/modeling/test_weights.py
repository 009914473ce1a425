import errno
import os

import pytest
import torch
from torch import nn

from comics.config import load_config, load_config_text
from comics.modeling import weights
from comics.modeling.weights import (
    file_sha256,
    halve_filters,
    load_state,
    read_weights,
    save_weights,
)


def state():
    return {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor([1, 2])}


def test_round_trip_keeps_tensors_configuration_and_metadata(tmp_path):
    cfg = load_config(overrides=["SEED", "7"])
    path = tmp_path / "deep" / "model.safetensors"
    save_weights(path, state(), cfg, {"iteration": "12"})
    file = read_weights(path)
    assert all(torch.equal(file.state[name], tensor) for name, tensor in state().items())
    assert load_config_text(file.metadata["config"]) == cfg
    assert file.metadata["iteration"] == "12"
    assert file.sha256 == file_sha256(path)
    assert os.listdir(path.parent) == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_weights(path, state(), load_config(), {})
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {"a": torch.ones(1)}, load_config(), {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        read_weights(path)
    save_weights(path, state(), load_config(), {})
    whole = path.read_bytes()
    for content in (b"", b"\x80\x04pickle", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors"):
            read_weights(path)


def test_loading_fits_exactly_or_changes_nothing():
    model = nn.Linear(2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"x\.pt does not fit.*missing \['bias'\].*'more'.*weight"):
        load_state(model, {"weight": torch.zeros(3, 5), "more": torch.zeros(1)}, "x.pt")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    load_state(model, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, "x.pt")
    assert model.weight.sum() == 6


def test_of_very_many_names_the_first_are_told():
    mine = nn.ModuleDict({f"mine{n:03}": nn.Linear(1, 1, bias=False) for n in range(300)})
    theirs = {f"theirs{n:03}.weight": torch.zeros(1, 1) for n in range(12)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_state(mine, theirs, "x.pt")
    message = str(caught.value)
    assert "'mine000.weight'" in message
    assert message.count("mine") == 10
    assert "and 290 more" in message
    assert message.count("theirs") == 10
    assert "and 2 more" in message


def test_halved_filters_load_as_float32_and_vectors_stay():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        layer[1].running_var.fill_(1e6)  # beyond float16
    halved = halve_filters(layer.state_dict())
    assert {name for name, value in halved.items() if value.dtype == torch.float16} == {"0.weight"}
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    load_state(other, halved, "here")
    assert other[0].weight.dtype == torch.float32
    assert torch.equal(other[0].weight, layer[0].weight.half().float())
    assert torch.equal(other[1].running_var, layer[1].running_var)


def test_a_filter_that_float16_cannot_hold_is_named():
    with pytest.raises(ValueError, match="stem"):
        halve_filters({"stem": torch.full((2, 2), 1e6)})

"""Weights under wrappers' names, and weights that are no numbers."""

import itertools

import pytest
import torch
from safetensors.torch import save_file

from comics.config import load_config
from comics.integrations.checkpoint_files import read_checkpoint
from comics.integrations.weights import load_foreign_weights
from comics.modeling.build import build_model
from comics.modeling.faces.encoder import read_encoder_weights
from comics.modeling.state_names import unwrap_container, without_wrappers
from comics.modeling.weights import load_state, read_weights, save_weights
from comics.pipeline import combine_files

FACE = ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.ENCODER", "SmallResNet"]
NAMES = ["conv1.weight", "layer1.0.bn1.running_var", "model_head.bias"]
WRAPPERS = ("_orig_mod.", "module.", "model.")


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_prefixes_in_any_nesting_and_order(depth):
    for prefixes in itertools.product(WRAPPERS, repeat=depth):
        wrapped = {"".join(prefixes) + name: number for number, name in enumerate(NAMES)}
        assert without_wrappers(wrapped) == dict(zip(NAMES, range(3), strict=True)), prefixes


def test_what_stands_beside_the_model_keeps_its_name():
    averaged = {"n_averaged": 0, "module.a.w": 1, "module.b.w": 2, "module.c.w": 3}
    assert without_wrappers(averaged) == {"n_averaged": 0, "a.w": 1, "b.w": 2, "c.w": 3}
    assert without_wrappers({"backbone._orig_mod.w": 1, "head.w": 2}) == {
        "backbone.w": 1, "head.w": 2,
    }  # fmt: skip
    clash = {"model.a": 1, "a": 2, "model.b": 3}
    assert without_wrappers(clash) == clash


@pytest.mark.parametrize(
    "keys", [["state_dict"], ["model"], ["state_dict", "model"], ["model", "state_dict"], []]
)
def test_containers_in_any_nesting(keys):
    content = {"w": 1}
    for key in reversed(keys):
        content = {key: content, "optimizer": {"state": {}}, "epoch": 3}
    assert unwrap_container(content) == {"w": 1}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.module._orig_mod.", "module.model."])
def test_files_of_wrapped_models_are_read(tmp_path, prefix):
    state = {prefix + name: torch.ones(2) for name in NAMES}
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": state, "epoch": 1, "pytorch-lightning_version": "2.5"}, path)
    assert read_checkpoint(path).keys() == set(NAMES)
    assert read_encoder_weights(path).keys() == set(NAMES)
    save_file(state, tmp_path / "w.safetensors")
    assert read_checkpoint(tmp_path / "w.safetensors").keys() == set(NAMES)


def face_model():
    torch.manual_seed(0)
    cfg = load_config(overrides=FACE)
    return build_model(cfg), cfg


def broken(state, name, value):
    return {k: torch.full_like(v, value) if k == name else v for k, v in state.items()}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["weight", "running_var"])
def test_weights_that_are_no_numbers_are_refused_everywhere(tmp_path, value, kind):
    model, cfg = face_model()
    state = model.state_dict()
    name = next(n for n, v in state.items() if n.endswith(kind) and v.is_floating_point())
    bad = broken(state, name, value)
    with pytest.raises(ValueError, match=f"not finite: {name}"):
        save_weights(tmp_path / "bad.safetensors", bad, cfg, {})
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "bad.safetensors"
    save_file(bad, path, metadata={"config": cfg.dump()})
    for read in (
        lambda: read_weights(path),
        lambda: load_foreign_weights(model, path),
        lambda: combine_files(path, path),
        lambda: load_state(model, bad, "there"),
    ):
        with pytest.raises(ValueError, match=f"not finite: .*{name}"):
            read()
    torch.save(bad, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=f"not finite: .*{name}"):
        load_foreign_weights(model, tmp_path / "bad.pth")
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


def test_numbers_beyond_float32_are_infinite():
    model, _ = face_model()
    state = {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    load_state(model, state, "there")
    name = next(n for n, v in state.items() if v.is_floating_point())
    state[name] = torch.full_like(state[name], 1e300)
    with pytest.raises(ValueError, match=f"not finite: {name}"):
        load_state(model, state, "there")


def test_a_part_of_a_joined_file_can_be_taken(tmp_path):
    model, cfg = face_model()
    state = {f"face.{name}": value for name, value in model.state_dict().items()}
    state |= {"detector.backbone.w": torch.ones(1), "face_temperature": torch.ones(())}
    state["detector_temperature"] = torch.ones(())
    save_file(state, tmp_path / "joined.safetensors", metadata={"config": cfg.dump()})
    other, _ = face_model()
    for value in other.state_dict().values():
        value.zero_()
    report = load_foreign_weights(other, tmp_path / "joined.safetensors")
    expected = model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in other.state_dict().items())
    assert "detector.backbone.w" in report.unexpected and not report.missing

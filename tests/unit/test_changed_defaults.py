"""A default that changed does not change what began with the former one."""

import pytest
import torch
import yaml

from comics.config import get_cfg, load_config
from comics.config.changed_defaults import FORMER_DEFAULTS, with_values_of
from comics.engine.train import with_attention_of_weights
from comics.modeling.weights import save_weights

RESIDUAL = "MODEL.COMICS.FEA.RESIDUAL"


def value(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize("key", FORMER_DEFAULTS)
def test_the_former_value_is_kept_and_noted(key, caplog):
    former = FORMER_DEFAULTS[key]
    assert value(get_cfg(), key) != former
    stored = yaml.safe_load(load_config(overrides=[key, str(former)]).dump())
    with caplog.at_level("INFO", logger="comics"):
        kept = with_values_of(load_config(), stored, "the checkpoint")
    assert value(kept, key) == former
    assert kept.is_frozen()
    assert f"the checkpoint has {key} {former!r}" in caplog.text
    assert value(with_values_of(load_config(), {}, "x"), key) == former  # a key of later versions


@pytest.mark.parametrize("key", FORMER_DEFAULTS)
def test_what_began_with_todays_default_stays(key, caplog):
    stored = yaml.safe_load(load_config().dump())
    with caplog.at_level("INFO", logger="comics"):
        assert with_values_of(load_config(), stored, "the checkpoint") == load_config()
        named = load_config(overrides=[key, str(FORMER_DEFAULTS[key])])
        assert with_values_of(named, stored, "the checkpoint") == named
    assert caplog.text == ""


@pytest.mark.parametrize("former", [True, False])
def test_weights_bring_the_attention_that_they_were_trained_with(former, tmp_path):
    cfg = load_config(overrides=[RESIDUAL, str(former)])
    path = tmp_path / "model.safetensors"
    save_weights(path, {"frequency.convs.0.weight": torch.zeros(1)}, cfg, {})
    words = ["MODEL.WEIGHTS", str(path)]
    assert (
        with_attention_of_weights(load_config(overrides=words)).MODEL.COMICS.FEA.RESIDUAL is former
    )
    named = load_config(overrides=[*words, RESIDUAL, "True"])
    assert with_attention_of_weights(named) == named
    # What only trains, and what a file without attention happens to name, are not taken over
    kept = with_attention_of_weights(load_config(overrides=words))
    assert kept.MODEL.COMICS.PROPOSAL.PROTOTYPE_UPDATE == "proposal"
    save_weights(path, {"head.weight": torch.zeros(1)}, cfg, {})
    plain = load_config(overrides=words)
    assert with_attention_of_weights(plain) == plain
    missing = load_config(overrides=["MODEL.WEIGHTS", str(tmp_path / "none.safetensors")])
    assert with_attention_of_weights(missing) == missing

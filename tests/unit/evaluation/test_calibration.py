"""Temperature scaling: it finds the temperature that made the data, and stays in the model file."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, logit

from comics.config import get_cfg
from comics.evaluation.calibration import (
    Calibration,
    calibrate,
    fit_temperature,
    negative_log_likelihood,
    store_temperature,
)
from comics.inference.verdict import TEMPERATURE_KEY, fake_probability
from comics.modeling.weights import read_weights, save_weights


def overconfident(temperature, count=20000):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, count)
    labels = (rng.random(count) < expit(logits)).astype(int)
    return labels, expit(logits * temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_made_the_data(temperature):
    labels, scores = overconfident(temperature)
    found = fit_temperature(labels, scores)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.likelihood_after <= found.likelihood_before
    assert found.error_after < 0.02


def test_it_is_where_the_derivative_of_the_likelihood_is_zero():
    labels, scores = overconfident(2.0, 500)
    z, sign = logit(scores), 2 * labels - 1

    def slope(inverse):  # of the mean log likelihood, by 1/T
        return np.mean(sign * z * expit(-sign * z * inverse))

    assert fit_temperature(labels, scores).temperature == pytest.approx(
        1 / brentq(slope, 0.01, 10), rel=1e-3
    )


def test_likelihood_is_cross_entropy():
    labels, scores = np.array([1, 0]), np.array([0.8, 0.4])
    expected = -(np.log(0.8) + np.log(0.6)) / 2
    assert negative_log_likelihood(labels, scores, 1.0) == pytest.approx(expected)


def test_calibrating_keeps_the_order_and_the_verdict():
    scores = np.array([0.0, 0.1, 0.5, 0.7, 1.0])
    after = calibrate(scores, 2.5)
    assert (np.diff(after) > 0).all() and after[2] == pytest.approx(0.5)
    assert ((after >= 0.5) == (scores >= 0.5)).all()


def test_the_same_rule_as_at_inference():
    scores = torch.tensor([[0.2, 0.6], [0.7, 0.3]])
    raw = fake_probability(scores, 0.05).numpy()
    ours = calibrate(raw, 1.7)
    assert ours == pytest.approx(fake_probability(scores, 0.05, 1.7).numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.2, 0.3], "one class only"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "without a single error"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], "no better than chance"),
    ],
)
def test_no_best_temperature(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(labels, scores)


def test_it_is_stored_in_the_model_file_and_nothing_else_changes(tmp_path):
    path = tmp_path / "model.safetensors"
    cfg = get_cfg()
    cfg.SEED = 7
    save_weights(path, {"w": torch.arange(3.0)}, cfg, {"version": "1", "iteration": "20"})
    before = read_weights(path)
    store_temperature(path, Calibration(1.25, 0.1, 0.05, 0.6, 0.5, 40), "val.json")
    after = read_weights(path)
    assert float(after.metadata[TEMPERATURE_KEY]) == 1.25
    assert after.metadata["temperature_fitted_on"] == "val.json"
    assert {k: after.metadata[k] for k in before.metadata} == before.metadata
    assert torch.equal(after.state["w"], before.state["w"])

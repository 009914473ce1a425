"""Temperature scaling: making P(fake) agree with observed frequencies (Guo et al. 2017).

One number T, fitted on validation data, divides the logit: ``sigmoid(logit(p) / T)``. The order of
faces, so AUC and the verdict at 0.5, stay as they are. T is kept in the model file's metadata, and
``comics.inference`` applies it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from comics.evaluation.classification import (
    Numbers,
    calibration_error,
    check_scores,
    reliability_bins,
)

TEMPERATURE_KEY = "temperature"  # of the model file's metadata, read by comics.inference.verdict
LOG_RANGE = (-5.0, 5.0)  # of ln T: beyond, probabilities are 0.5 or 0 and 1 to many digits
MARGIN = 1e-6  # probabilities are kept this far from 0 and 1, whose logits are infinite


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and what it does to the data it was fitted on.

    Attributes:
        temperature: above 1, the model was too sure; below 1, not sure enough.
        error_before, error_after: expected calibration error.
        likelihood_before, likelihood_after: negative log likelihood per face.
        count: faces that it was fitted on.
    """

    temperature: float
    error_before: float
    error_after: float
    likelihood_before: float
    likelihood_after: float
    count: int

    def metadata(self, fitted_on: str) -> dict[str, str]:
        """What a model file's metadata says of it; ``fitted_on`` names the validation set."""
        return {
            TEMPERATURE_KEY: repr(self.temperature),
            "temperature_fitted_on": fitted_on,
            "temperature_faces": str(self.count),
        }


def calibrate(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """Calibrated P(fake) from P(fake); 0 and 1 stay nearly so (``MARGIN``)."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), MARGIN, 1 - MARGIN)
    return expit(logit(clipped) / temperature)


def fit_temperature(labels: Numbers, scores: Numbers) -> Calibration:
    """The T with the smallest negative log likelihood.

    Args:
        labels: [N] 0 real, 1 fake; of validation data, never of a test set.
        scores: [N] P(fake), not calibrated yet.

    Raises:
        ValueError: as ``check_scores``; or if there is one class only, or if no temperature is
            best (the scores separate the classes, or are no better than chance).
    """
    labels, scores = check_scores(labels, scores)
    if len(np.unique(labels)) < 2:
        raise ValueError("a temperature needs real and fake faces; there is one class only")

    def likelihood(log_temperature: float) -> float:
        return negative_log_likelihood(labels, scores, float(np.exp(log_temperature)))

    fit = minimize_scalar(likelihood, bounds=LOG_RANGE, method="bounded")
    low, high = LOG_RANGE
    if min(fit.x - low, high - fit.x) < 0.01 * (high - low):
        reason = "no better than chance" if fit.x > 0 else "without a single error"
        raise ValueError(
            f"no temperature is best for these {len(labels)} faces: their scores are {reason}"
        )
    temperature = float(np.exp(fit.x))
    after = calibrate(scores, temperature)
    return Calibration(
        temperature=temperature,
        error_before=calibration_error(reliability_bins(labels, scores)),
        error_after=calibration_error(reliability_bins(labels, after)),
        likelihood_before=likelihood(0.0),
        likelihood_after=float(fit.fun),
        count=len(labels),
    )


def negative_log_likelihood(labels: np.ndarray, scores: np.ndarray, temperature: float) -> float:
    """Mean of -ln P(label), with P(fake) calibrated by ``temperature``."""
    logits = logit(np.clip(scores, MARGIN, 1 - MARGIN)) / temperature
    signed = np.where(labels == 1, logits, -logits)
    return float(np.mean(np.logaddexp(0, -signed)))


def store_temperature(path: str | os.PathLike, calibration: Calibration, fitted_on: str) -> None:
    """Write T into a model file's metadata; weights and configuration stay as they are.

    Args:
        path: model file, replaced atomically.
        calibration: from ``fit_temperature``, on scores of that model without calibration.
        fitted_on: name of the validation set, kept beside T.

    Raises:
        FileNotFoundError, ValueError: if there is no such model file, or it is broken.
    """
    store_choice(path, path, calibration, {}, fitted_on)


def store_choice(
    source: str | os.PathLike,
    output: str | os.PathLike,
    calibration: Calibration,
    thresholds: Mapping[str, float],
    fitted_on: str,
) -> None:
    """A model file like ``source`` with a temperature and thresholds; weights as they are.

    Args:
        source, output: model files.
        calibration: of P(fake).
        thresholds: values of TEST by name: "SCORE_THRESH", "FAKE_THRESH", "UNCLEAR.BELOW".
        fitted_on: what both were chosen on.

    Raises:
        FileNotFoundError, ValueError: if there is no such model file, or it is broken.
    """
    store_metadata(source, output, calibration.metadata(fitted_on), thresholds)


def store_metadata(
    source: str | os.PathLike,
    output: str | os.PathLike,
    added: Mapping[str, str],
    thresholds: Mapping[str, float],
) -> None:
    """A model file like ``source`` with more metadata and other thresholds; weights as they are.

    Args:
        source, output: model files.
        added: metadata by name; replaces what was there of the same names.
        thresholds: values of TEST by name, as in ``store_choice``.

    Raises:
        FileNotFoundError, ValueError: if there is no such model file, or it is broken.
    """
    from comics.config import CfgNode, load_config_text
    from comics.modeling.weights import read_weights, save_weights

    file = read_weights(source)
    cfg: CfgNode | str = file.metadata["config"]  # where no threshold changes, to the letter
    if thresholds:
        cfg = load_config_text(file.metadata["config"]).clone()
        cfg.defrost()
        words = [w for name, value in thresholds.items() for w in (f"TEST.{name}", value)]
        cfg.merge_from_list(words)
        cfg.freeze()
    metadata = {name: text for name, text in file.metadata.items() if name != "config"}
    save_weights(output, file.state, cfg, metadata | dict(added))

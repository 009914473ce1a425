"""Detectors compared photo by photo: differences of AP and AUC, with paired bootstrap intervals.

Each resample draws photos with replacement and asks every model about the same ones, so what the
models have in common cancels. Photos enter as weights (how often each was drawn): matching, which
is by photo, is done once.

Shape letters: I photos; G faces; K categories; T IoU thresholds; S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from comics.evaluation.classification import BOOTSTRAP_SAMPLES, CONFIDENCE, auc
from comics.evaluation.coco import by_score, interpolated_precision
from comics.evaluation.faces import face_verdicts
from comics.evaluation.metrics import Metrics

AUC = "AUC_all"  # over all faces; a missed one is the worst answer


@dataclass(frozen=True)
class Figure:
    """One figure of a model on a set of photos, for any weights of these.

    Attributes:
        metrics: of the model on the set.
        name: "bbox/AP", "segm/AP", or ``AUC``.
    """

    metrics: Metrics
    name: str

    def of(self, weights: np.ndarray) -> float:
        """The figure where photo i counts ``weights[i]`` times ([I], not negative); 0 to 1.

        NaN where it is not defined, such as an AUC of one class.
        """
        if self.name == AUC:
            return self._auc(weights)
        return weighted_ap(self.metrics, self.name.split("/")[0], weights)

    def _auc(self, weights: np.ndarray) -> float:
        verdicts = face_verdicts(self.metrics, next(iter(self.metrics.modes)))
        missed = np.isnan(verdicts.fake_probability)
        scores = np.where(missed, 1 - verdicts.labels, verdicts.fake_probability)
        times = weights[self.metrics.ground_truth.image[verdicts.face]].astype(np.int64)
        return auc(np.repeat(verdicts.labels, times), np.repeat(scores, times))


def weighted_ap(metrics: Metrics, mode: str, weights: np.ndarray) -> float:
    """Class-aware AP (0.5 to 0.95, all sizes) where photo i counts ``weights[i]`` times.

    With weights of 1 it is COCO's AP. NaN if no class has a face.
    """
    truth, matches = metrics.ground_truth, metrics.modes[mode].matches
    found = []
    for category in range(len(truth.category_ids)):
        counted = ~truth.crowd & (truth.category == category)
        faces = float(weights[truth.image[counted]].sum())
        if not faces:
            continue
        order = by_score(matches, category)
        times = weights[matches.ranked.image[order]]
        correct = matches.true_positive[0][:, order]
        wrong = ~correct & ~matches.ignored[0][:, order]
        # Photos that were not drawn have no detections either
        precision = interpolated_precision(correct * times, wrong * times, faces)
        found.append(precision.mean())
    return float(np.mean(found)) if found else float("nan")


@dataclass(frozen=True)
class Difference:
    """How much higher a figure is: the mean over seeds, its interval over photos, each seed's."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def text(self) -> str:
        """Points (x100), with the interval."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def paired_differences(
    first: Sequence[Figure],
    second: Sequence[Figure],
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean over seeds of first - second, with its percentile bootstrap interval over photos.

    Args:
        first, second: one of each seed, pairs of one seed; all of one set and one figure.
        samples: resamples; those where it is not defined are left out.
        seed: of the draws.

    Returns:
        The interval is of the photos alone: seeds are those that were run. NaN where the figure is
        undefined in most resamples.

    Raises:
        ValueError: if there is no pair, they are not as many, or not of the same photos.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"pairs of one seed each, got {len(first)} and {len(second)}")
    photos = first[0].metrics.ground_truth.image_ids
    for figure in (*first, *second):
        if not np.array_equal(figure.metrics.ground_truth.image_ids, photos):
            raise ValueError("they were not asked about the same photos")

    def gains(weights: np.ndarray) -> list[float]:
        return [a.of(weights) - b.of(weights) for a, b in zip(first, second, strict=True)]

    by_seed = gains(np.ones(len(photos)))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(photos), np.full(len(photos), 1 / len(photos)), samples)
    values = np.array([np.mean(gains(draw.astype(np.float64))) for draw in draws])
    defined = values[~np.isnan(values)]
    low = high = float("nan")
    if len(defined) > samples / 2:
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(v) for v in np.quantile(defined, [tail, 1 - tail]))
    return Difference(float(np.mean(by_seed)), low, high, tuple(by_seed))

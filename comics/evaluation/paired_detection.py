"""Detectors compared photo by photo: differences of AP and AUC, with paired bootstrap intervals.

Each resample draws photos with replacement and asks every model about the same ones, so what the
models have in common cancels. A resample is a row of weights, how often each photo was drawn:
matching, which is by photo, is done once, and the first row, all ones, gives the figure itself.

Shape letters: S rows of weights; I photos; D detections of a category, best first; G faces found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from comics.evaluation.classification import BOOTSTRAP_SAMPLES, CONFIDENCE
from comics.evaluation.coco import RECALL_LEVELS, by_score
from comics.evaluation.faces import face_verdicts
from comics.evaluation.metrics import Metrics

AUC = "AUC_all"  # over all faces; a missed one is the worst answer
_BLOCK = 2**22  # elements of the largest temporary array


def photo_weights(photos: int, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> np.ndarray:
    """[1 + samples, photos] float64: ones, then how often each photo is drawn in a resample."""
    draws = np.random.default_rng(seed).multinomial(
        photos, np.full(photos, 1 / photos), size=samples
    )
    return np.concatenate([np.ones((1, photos)), draws])


def weighted_figure(metrics: Metrics, name: str, weights: np.ndarray) -> np.ndarray:
    """[S] a figure where photo i counts ``weights[s, i]`` times; NaN where it is not defined.

    Args:
        metrics: of a model on a set.
        name: "bbox/AP", "segm/AP" (class-aware, IoU 0.5 to 0.95, all sizes), or ``AUC``.
        weights: [S, I], not negative.
    """
    if name == AUC:
        return _weighted_auc(metrics, weights)
    return _weighted_ap(metrics, name.split("/")[0], weights)


def _weighted_ap(metrics: Metrics, mode: str, weights: np.ndarray) -> np.ndarray:
    """COCO's AP, the mean over the classes that have a face in the photos drawn."""
    truth, matches = metrics.ground_truth, metrics.modes[mode].matches
    values = []
    for category in range(len(truth.category_ids)):
        counted = ~truth.crowd & (truth.category == category)
        faces = weights[:, truth.image[counted]].sum(axis=1)
        order = by_score(matches, category)
        image = matches.ranked.image[order]
        correct = matches.true_positive[0][:, order]
        wrong = ~correct & ~matches.ignored[0][:, order]
        block = max(1, _BLOCK // max(1, len(order)))
        parts = [
            _mean_precision(weights[start : start + block][:, image], correct, wrong,
                            faces[start : start + block])
            for start in range(0, len(weights), block)
        ]  # fmt: skip
        values.append(np.concatenate(parts))
    table = np.array(values)
    defined = ~np.isnan(table)
    total = np.where(defined, table, 0).sum(axis=0)
    count = defined.sum(axis=0)
    return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)


def _mean_precision(
    times: np.ndarray, correct: np.ndarray, wrong: np.ndarray, faces: np.ndarray
) -> np.ndarray:
    """[S] precision, interpolated at COCO's recall levels, mean over them and IoU thresholds.

    Args:
        times: [S, D] how often each detection counts.
        correct, wrong: [thresholds, D].
        faces: [S] how many count; NaN comes out where none does.
    """
    total = np.zeros(len(times))
    for level in range(len(correct)):
        right = np.cumsum(times * correct[level], axis=1)
        false = np.cumsum(times * wrong[level], axis=1)
        precision = right / (right + false + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row, count in enumerate(faces):
            if count:
                place = np.searchsorted(right[row] / count, RECALL_LEVELS, side="left")
                reached = place < right.shape[1]
                total[row] += envelope[row, place[reached]].sum() / len(RECALL_LEVELS)
    return np.where(faces > 0, total / len(correct), np.nan)


def _weighted_auc(metrics: Metrics, weights: np.ndarray) -> np.ndarray:
    """Mann and Whitney's AUC over faces, ties half."""
    verdicts = face_verdicts(metrics, next(iter(metrics.modes)))
    missed = np.isnan(verdicts.fake_probability)
    scores = np.where(missed, 1 - verdicts.labels, verdicts.fake_probability)
    order = np.argsort(scores, kind="stable")
    times = weights[:, metrics.ground_truth.image[verdicts.face[order]]]
    starts = np.flatnonzero(np.diff(scores[order], prepend=-1))  # of runs of equal scores
    fake = np.add.reduceat(times * (verdicts.labels[order] == 1), starts, axis=1)
    real = np.add.reduceat(times * (verdicts.labels[order] == 0), starts, axis=1)
    below = np.cumsum(real, axis=1) - real / 2
    pairs = fake.sum(axis=1) * real.sum(axis=1)
    won = (fake * below).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


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


def paired_difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Difference:
    """Mean over seeds of first - second, with its percentile bootstrap interval over photos.

    Args:
        first, second: ``weighted_figure`` of one model and another, one of each seed, pairs of one
            seed; all with the same ``photo_weights``.

    Returns:
        The interval is of the photos alone: seeds are those that were run. NaN where the figure is
        undefined in most resamples.

    Raises:
        ValueError: if there is no pair, or they are not as many or of other weights.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"pairs of one seed each, got {len(first)} and {len(second)}")
    if len({len(values) for values in (*first, *second)}) > 1:
        raise ValueError("they were not asked about the same photos")
    gains = np.array(first) - np.array(second)
    resampled = gains[:, 1:].mean(axis=0)
    defined = resampled[~np.isnan(resampled)]
    low = high = float("nan")
    if len(defined) > len(resampled) / 2:
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(value) for value in np.quantile(defined, [tail, 1 - tail]))
    by_seed = gains[:, 0].tolist()
    return Difference(float(np.mean(by_seed)), low, high, tuple(by_seed))

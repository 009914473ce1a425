"""How well P(fake) tells forged faces from real ones: AUC, EER, AP, accuracies, calibration.

Definitions: docs/methods.md#metrics-faces.

Labels are 0 real, 1 fake (the positive class); scores are P(fake) in [0, 1], a higher score means
more likely forged. What a set does not define (AUC of one class) is NaN, with the reason among the
notes.
Torch-free, like all evaluation of files. Shape letters: N faces, frames or videos; V groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_curve

Numbers = Sequence | np.ndarray
Key = TypeVar("Key", bound=Hashable)

THRESHOLD = 0.5  # a face is called forged from this P(fake) on
FALSE_POSITIVE_RATES = (0.1, 0.01)  # at which the true positive rate is stated
BINS = 15  # equal-width reliability bins (Guo et al. 2017)
BOOTSTRAP_SAMPLES, CONFIDENCE = 1000, 0.95


@dataclass(frozen=True)
class ReliabilityBin:
    """Faces whose P(fake) lies in [low, high) (the last bin: up to and with 1).

    Attributes:
        low, high: bounds.
        count: faces in the bin.
        probability: their mean P(fake); NaN in an empty bin.
        fraction: the share of them that is fake; NaN in an empty bin.
    """

    low: float
    high: float
    count: int
    probability: float
    fraction: float


@dataclass(frozen=True)
class ClassificationMetrics:
    """Figures, 0 to 1, and what to know about them.

    Attributes:
        values: name -> figure; see ``classification_metrics``.
        bins: reliability diagram.
        notes: why a figure is NaN.
    """

    values: dict[str, float]
    bins: list[ReliabilityBin]
    notes: list[str] = field(default_factory=list)


def check_scores(labels: Numbers, scores: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """[N] int64 labels and [N] float64 scores.

    Raises:
        ValueError: naming the first entry with a label other than 0 and 1, or a score that is not
            in [0, 1]; or if there is none, or not as many of one as of the other.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or not len(labels):
        raise ValueError(
            f"labels and scores must be two lists of one length, at least 1; got shapes "
            f"{labels.shape} and {scores.shape}"
        )
    for bad, fault in (
        (~np.isin(labels, (0, 1)), "label {} is neither 0 (real) nor 1 (fake)"),
        (~((scores >= 0) & (scores <= 1)), "score {1} is no probability in [0, 1]"),
    ):
        if bad.any():
            place = int(np.argmax(bad))
            raise ValueError(f"entry {place}: " + fault.format(labels[place], scores[place]))
    return labels.astype(np.int64), scores


def classification_metrics(
    labels: Numbers, scores: Numbers, threshold: float = THRESHOLD
) -> ClassificationMetrics:
    """Every figure of one set.

    ``values`` holds: AUC; EER (interpolated ROC over all points: FPR = FNR; unambiguous) and,
    to compare with published tables, EER_bench (DeepfakeBench: FPR nearest to FNR on scikit-learn's
    thinned ROC), EER_allpoints (the same without thinning), EER_mid ((FPR + FNR) / 2 there); AP
    (not interpolated); accuracy (``score >= threshold`` is fake), accuracy_gt (``score >
    threshold``, as DeepfakeBench), accuracy_real, accuracy_fake, balanced_accuracy; TPR@FPR=...;
    ECE; n, n_real, n_fake.

    Raises:
        ValueError: as ``check_scores``.
    """
    labels, scores = check_scores(labels, scores)
    fake = labels == 1
    notes = []
    values: dict[str, float] = {
        "n": len(labels),
        "n_real": int((~fake).sum()),
        "n_fake": int(fake.sum()),
    }
    values |= _ranking(labels, scores)
    if fake.all() or not fake.any():
        only = "fake" if fake.all() else "real"
        notes.append(f"all {len(labels)} labels are {only}: AUC, EER and TPR are undefined")
    if not fake.any():
        notes.append("no fake example: AP and accuracy_fake are undefined")
    called = scores >= threshold
    right = called == fake
    values |= {
        "AP": float(average_precision_score(labels, scores)) if fake.any() else math.nan,
        "accuracy": float(right.mean()),
        "accuracy_gt": float(((scores > threshold) == fake).mean()),
        "accuracy_real": float(right[~fake].mean()) if not fake.all() else math.nan,
        "accuracy_fake": float(right[fake].mean()) if fake.any() else math.nan,
    }
    values["balanced_accuracy"] = (values["accuracy_real"] + values["accuracy_fake"]) / 2
    bins = reliability_bins(labels, scores)
    values["ECE"] = calibration_error(bins)
    return ClassificationMetrics(values, bins, notes)


def _ranking(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    names = ["AUC", "EER", "EER_bench", "EER_allpoints", "EER_mid"]
    names += [f"TPR@FPR={rate:g}" for rate in FALSE_POSITIVE_RATES]
    if len(np.unique(labels)) < 2:
        return dict.fromkeys(names, math.nan)
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=False)
    thinned_false, thinned_true, _ = roc_curve(labels, scores)
    nearest = int(np.argmin(np.abs(1 - true_rate - false_rate)))
    thinned = int(np.argmin(np.abs(1 - thinned_true - thinned_false)))
    figures = [
        auc(labels, scores),
        equal_error_rate(false_rate, true_rate),
        thinned_false[thinned],
        false_rate[nearest],
        (false_rate[nearest] + 1 - true_rate[nearest]) / 2,
        *(true_rate_at(false_rate, true_rate, rate) for rate in FALSE_POSITIVE_RATES),
    ]
    return {name: float(value) for name, value in zip(names, figures, strict=True)}


def equal_error_rate(false_rate: np.ndarray, true_rate: np.ndarray) -> float:
    """Where FPR = FNR on the ROC with its points joined by straight lines.

    Args:
        false_rate, true_rate: [M] the ROC from (0, 0) to (1, 1), all points.
    """
    gap = 1 - true_rate - false_rate  # FNR - FPR, from 1 down to -1
    after = int(np.argmax(gap <= 0))
    before = after - 1  # the ROC starts at a gap of 1
    share = gap[before] / (gap[before] - gap[after])
    return float(false_rate[before] + share * (false_rate[after] - false_rate[before]))


def true_rate_at(false_rate: np.ndarray, true_rate: np.ndarray, limit: float) -> float:
    """The highest TPR that a threshold reaches with an FPR of at most ``limit``."""
    return float(true_rate[false_rate <= limit].max())


def reliability_bins(
    labels: np.ndarray, scores: np.ndarray, bins: int = BINS
) -> list[ReliabilityBin]:
    """Compare P(fake) with the share of fakes, in bins of equal width."""
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        probability = float(scores[inside].mean()) if count else math.nan
        fraction = float(labels[inside].mean()) if count else math.nan
        bounds = number / bins, (number + 1) / bins
        found.append(ReliabilityBin(*bounds, count, probability, fraction))
    return found


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean over faces of their bin's |P(fake) - share of fakes|.

    Of the probability of the positive class; of confidences it would hide opposite errors.
    """
    filled = [b for b in bins if b.count]
    total = sum(b.count for b in filled)
    return sum(b.count * abs(b.probability - b.fraction) for b in filled) / total


def group_mean(
    labels: Numbers, scores: Numbers, keys: Sequence[Key], any_fake: bool = False
) -> tuple[np.ndarray, np.ndarray, list[Key]]:
    """From faces to frames, tracks or videos: mean score and label of each group.

    Args:
        labels, scores: [N].
        keys: [N] group of each. A video's is (dataset, method, id): ids alone repeat.
        any_fake: a group is fake if any member is; else members must agree.

    Returns:
        [V] labels, [V] scores, the keys in the order of their first appearance.

    Raises:
        ValueError: as ``check_scores``, or naming a group with both labels.
    """
    labels, scores = check_scores(labels, scores)
    if len(keys) != len(labels):
        raise ValueError(f"{len(keys)} keys for {len(labels)} labels")
    numbers: dict[Key, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    names = list(numbers)
    count = np.bincount(group)
    fakes = np.bincount(group, weights=labels)
    mixed = (fakes > 0) & (fakes < count)
    if mixed.any() and not any_fake:
        raise ValueError(f"group {names[int(np.argmax(mixed))]!r} has real and fake members")
    return (fakes > 0).astype(np.int64), np.bincount(group, weights=scores) / count, names


def bootstrap_interval(
    metric: Callable[[np.ndarray, np.ndarray], float],
    labels: Numbers,
    scores: Numbers,
    clusters: Sequence[Hashable] | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``metric(labels, scores)``.

    Args:
        clusters: [N] what is drawn as a whole, e.g. videos: their frames are not independent.
        samples: resamples; those where the metric is NaN (one class only) are left out.
        confidence: share of the resamples inside, in (0, 1).
        seed: of the draws.

    Returns:
        (low, high); (NaN, NaN) if the metric is undefined in most resamples.
    """
    labels, scores = check_scores(labels, scores)
    return resampled_interval(
        lambda chosen: metric(labels[chosen], scores[chosen]),
        range(len(labels)) if clusters is None else clusters,
        samples,
        confidence,
        seed,
    )


def resampled_interval(
    figure: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    samples: int = BOOTSTRAP_SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a figure of rows; see ``bootstrap_interval``.

    Args:
        figure: of the positions of rows, of which some come more than once.
        clusters: [N] of each row, what is drawn as a whole.
        samples, confidence, seed: likewise.
    """
    gathered: dict[Hashable, list[int]] = {}
    for position, cluster in enumerate(clusters):
        gathered.setdefault(cluster, []).append(position)
    members = [np.array(positions) for positions in gathered.values()]
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(samples):
        drawn = rng.integers(0, len(members), len(members))
        figures.append(figure(np.concatenate([members[i] for i in drawn])))
    defined = np.array(figures)[~np.isnan(figures)]
    if len(defined) <= samples / 2:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC by ranks (Mann and Whitney), ties half; NaN for a single class."""
    fake = labels == 1
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if not fakes or not reals:
        return math.nan
    above = rankdata(scores)[fake].sum() - fakes * (fakes + 1) / 2
    return float(above / (fakes * reals))

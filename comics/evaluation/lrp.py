"""The LRP error and its optimum, from the same matching as AP (docs/methods.md#metrics-lrp).

Localisation Recall Precision (Oksuz et al., "One Metric to Measure Them All", TPAMI 2021) of
the detections with a score of at least s::

    LRP = (sum over TP of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP + FN),  tau = 0.5

oLRP is its minimum over s, for each class; Loc = mean of 1 - IoU (at most 0.5), FP = 1 - precision
and FN = 1 - recall are taken at that s, the LRP-optimal threshold. Lower is better. Everything is
0 to 1; -1 marks a class without counted ground truth, NaN what no detection defines.

As in the official code, a cut may fall between detections of equal score, and the first of equal
minima is taken. So if nothing beats an error of 1 although true positives exist (all at
IoU = tau), components and threshold are those of the first detection.

Shape letters: A area ranges; K categories; n detections of one category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comics.evaluation.coco import SIZES, by_score
from comics.evaluation.matching import Matches

TAU = 0.5  # IoU from which a detection is a true positive
COMPONENTS = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")


@dataclass(frozen=True)
class OptimalLRP:
    """oLRP, its components and the threshold, per size and class.

    Attributes:
        values: [A, K, 4] in the order of ``COMPONENTS``.
        threshold: [A, K] LRP-optimal score threshold.
    """

    values: np.ndarray
    threshold: np.ndarray


def optimal_lrp(matches: Matches) -> OptimalLRP:
    """oLRP of every size and class; the matching's lowest threshold must be ``TAU``."""
    areas, categories = matches.counted.shape
    values = np.full((areas, categories, len(COMPONENTS)), -1.0)
    threshold = np.full((areas, categories), -1.0)
    for category in range(categories):
        order = by_score(matches, category)
        for area in range(areas):
            faces = matches.counted[area, category]
            if faces:
                correct = matches.true_positive[area, 0, order]
                wrong = ~correct & ~matches.ignored[area, 0, order]
                iou = matches.iou[area, order]
                scores = matches.ranked.scores[order]
                values[area, category], threshold[area, category] = _optimum(
                    correct, wrong, iou, scores, faces
                )
    return OptimalLRP(values, threshold)


def lrp_curve(correct: np.ndarray, wrong: np.ndarray, iou: np.ndarray, faces: int) -> np.ndarray:
    """[n, 4] LRP, Loc, FP and FN when the best 1, 2, ..., n detections are kept.

    Args:
        correct, wrong: [n] bool, by descending score; ignored detections are neither.
        iou: [n] IoU of the correct ones.
        faces: number of faces that count, at least 1.
    """
    true_positives = np.cumsum(correct, dtype=np.float64)
    false_positives = np.cumsum(wrong, dtype=np.float64)
    missed = faces - true_positives
    # the order of operations of the official code, so that equal minima are equal here too
    distance = true_positives - np.cumsum(iou * correct)
    total = true_positives + false_positives + missed
    error = (distance / (1 - TAU) + false_positives + missed) / total
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: no detection defines the component
        localisation = distance / true_positives
        false_share = false_positives / (true_positives + false_positives)
    return np.stack((error, localisation, false_share, missed / faces), axis=1)


def summarise(optimum: OptimalLRP, category: int | None = None) -> dict[str, float]:
    """oLRP and components by size, of one category (with thresholds) or the mean over classes.

    The mean of each quantity is over the classes where that quantity is defined.
    """
    figures = {}
    for area, suffix in enumerate(SIZES.values()):
        for position, name in enumerate(COMPONENTS):
            column = optimum.values[area, :, position]
            figures[name + suffix] = _mean(column) if category is None else float(column[category])
        if category is not None:
            figures["thr" + suffix] = float(optimum.threshold[area, category])
    return figures


def contributions(
    localisation: float, false_share: float, missed_share: float, faces: int
) -> tuple[float, float, float]:
    """What localisation, false positives and missed faces add to a class's oLRP; they sum to it.

    Args:
        localisation, false_share, missed_share: the class's Loc, FP and FN.
        faces: number of faces that count.

    Returns:
        NaN three times where a component is undefined.
    """
    found = faces * (1 - missed_share)
    if np.isnan(localisation) or not found:
        return (np.nan,) * 3
    false_positives = found * false_share / (1 - false_share)
    total = faces + false_positives
    distance = found * localisation / (1 - TAU)
    return distance / total, false_positives / total, faces * missed_share / total


def _optimum(
    correct: np.ndarray, wrong: np.ndarray, iou: np.ndarray, scores: np.ndarray, faces: int
) -> tuple[np.ndarray, float]:
    if not correct.any():
        return np.array([1.0, np.nan, np.nan, 1.0]), np.nan
    curve = lrp_curve(correct, wrong, iou, faces)
    best = int(np.argmin(curve[:, 0]))
    return curve[best], float(scores[best])


def _mean(values: np.ndarray) -> float:
    defined = values[(values > -1) & ~np.isnan(values)]
    return float(defined.mean()) if defined.size else -1.0

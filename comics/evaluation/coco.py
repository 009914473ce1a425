"""COCO average precision and recall, from a matching (docs/methods.md#metrics-ap).

Everything is 0 to 1; -1 marks what has no counted ground truth (COCO's marker).

Shape letters: A area ranges; T IoU thresholds; R recall levels; K categories; M limits on the
number of detections; D detections; n detections of one category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comics.evaluation.matching import Matches

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # COCO
DETECTION_LIMITS = (1, 10, 100)  # COCO's maxDets
SIZES = {"all": "", "small": "_S", "medium": "_M", "large": "_L"}  # area range -> suffix
_AP50, _AP75 = 0, 5  # positions of IoU 0.5 and 0.75 among the thresholds


@dataclass(frozen=True)
class PrecisionRecall:
    """The curves behind AP and AR.

    Attributes:
        precision: [A, T, K, R] interpolated precision at ``RECALL_LEVELS``; -1 where undefined.
        recall: [A, T, K, M] largest recall with so many detections per image; -1 as above.
    """

    precision: np.ndarray
    recall: np.ndarray


def precision_recall(matches: Matches) -> PrecisionRecall:
    """Accumulate a matching over all images (pycocotools' ``COCOeval.accumulate``)."""
    areas, levels, _ = matches.true_positive.shape
    categories = matches.counted.shape[1]
    precision = np.full((areas, levels, categories, len(RECALL_LEVELS)), -1.0)
    recall = np.full((areas, levels, categories, len(DETECTION_LIMITS)), -1.0)
    for category in range(categories):
        order = by_score(matches, category)
        rank = matches.ranked.rank[order]
        for area in range(areas):
            faces = matches.counted[area, category]
            if not faces:
                continue
            correct = matches.true_positive[area][:, order]
            wrong = ~correct & ~matches.ignored[area][:, order]
            precision[area, :, category] = interpolated_precision(correct, wrong, faces)
            for position, limit in enumerate(DETECTION_LIMITS):
                found = (correct & (rank < limit)).sum(axis=1)
                recall[area, :, category, position] = found / faces
    return PrecisionRecall(precision, recall)


def by_score(matches: Matches, category: int) -> np.ndarray:
    """[n] positions in ``matches.ranked`` of one category, best first; ties in image order."""
    begin, end = np.searchsorted(matches.ranked.category, [category, category + 1])
    return begin + np.argsort(-matches.ranked.scores[begin:end], kind="stable")


def interpolated_precision(correct: np.ndarray, wrong: np.ndarray, faces: int) -> np.ndarray:
    """[T, R] precision at ``RECALL_LEVELS``: the best at that recall or beyond, else 0.

    Args:
        correct, wrong: [T, n] bool, detections by descending score; ignored ones are neither.
        faces: number of faces that count, at least 1.
    """
    false_positives = np.cumsum(wrong, axis=1, dtype=np.int32)
    sampled = np.zeros((len(correct), len(RECALL_LEVELS)))
    for level, right in enumerate(correct):
        # Recall rises with the right detections alone, and precision is highest there
        places = np.flatnonzero(right)
        true_positives = np.arange(1.0, len(places) + 1)
        # COCO adds the smallest spacing of doubles at 1
        precision = true_positives / (
            false_positives[level, places] + true_positives + np.spacing(1)
        )
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        position = np.searchsorted(true_positives / faces, RECALL_LEVELS, side="left")
        reached = position < len(places)
        sampled[level, reached] = envelope[position[reached]]
    return sampled


def summarise(curves: PrecisionRecall, category: int | None = None) -> dict[str, float]:
    """COCO's twelve figures, of one category or (None) over all that have ground truth."""
    chosen = slice(None) if category is None else slice(category, category + 1)
    precision, recall = curves.precision[:, :, chosen], curves.recall[:, :, chosen]
    figures = average_precision(precision[0])
    for area, suffix in enumerate(SIZES.values()):
        if suffix:
            figures[f"AP{suffix}"] = _mean(precision[area])
    for position, limit in enumerate(DETECTION_LIMITS):
        figures[f"AR_{limit}"] = _mean(recall[0, ..., position])
    for area, suffix in enumerate(SIZES.values()):
        if suffix:
            figures[f"AR{suffix}"] = _mean(recall[area, ..., -1])
    return figures


def average_precision(precision: np.ndarray) -> dict[str, float]:
    """AP, AP50 and AP75 of one area range's precision [T, K, R]."""
    return {
        "AP": _mean(precision),
        "AP50": _mean(precision[_AP50]),
        "AP75": _mean(precision[_AP75]),
    }


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0

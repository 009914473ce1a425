"""A detector's verdict on every annotated face: P(fake), found or missed.

A detection belongs to the face that it overlaps most, if the IoU is at least 0.5, whatever the
classes. P(fake) of a face is formed from the best detection of each class that belongs to it, as
``comics.inference.verdict`` forms it; a ``fake_probability`` that the results state for that
detection goes before. A face to which no detection belongs has no P(fake): how it
is counted is said with every figure. Crowds are no faces.

Shape letters: G annotated faces, crowds left out; D detections, sorted for matching.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comics.evaluation.calibration import calibrate
from comics.evaluation.classification import ClassificationMetrics, auc, classification_metrics
from comics.evaluation.matching import MAX_DETECTIONS
from comics.evaluation.metrics import Metrics

MISSED_COLUMN = 2  # of a confusion table, after "called real" and "called fake"
# What TEST.SCORE_THRESH, TEST.FAKE_THRESH and TEST.MISSING_SCORE are by default
SCORE_THRESHOLD, FAKE_THRESHOLD, MISSING_SCORE = 0.5, 0.5, 0.05
FAKE_NAMES = ("fake", "forged")  # of the category, in any case


@dataclass(frozen=True)
class FaceVerdicts:
    """What a detector says of each annotated face.

    Attributes:
        face: [G] position in ``GroundTruth``.
        labels: [G] int64, 0 real, 1 fake: what is true.
        fake_probability: [G] float64 in [0, 1]; NaN for a missed face.
        score: [G] float64, the highest score of a detection of the face; 0 for a missed one.
        iou: [G] float64, overlap with the detection of that score; 0 for a missed face.
        detection: [G] that detection's position in the results; -1 for a missed face.
        false_alarms: scores of the detections that belong to no face (nor to a crowd).
    """

    face: np.ndarray
    labels: np.ndarray
    fake_probability: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    detection: np.ndarray
    false_alarms: np.ndarray


def face_verdicts(
    metrics: Metrics,
    mode: str,
    missing_score: float = MISSING_SCORE,
    temperature: float = 1.0,
) -> FaceVerdicts:
    """P(fake) of every annotated face.

    Args:
        metrics: of a detector on a set with a real and a fake category.
        mode: whose IoU assigns detections to faces: "bbox" or "segm".
        missing_score: what a class counts that was not detected at a face; never more than the
            class that was.
        temperature: of ``comics.evaluation.calibration``; 1 for no calibration. Not applied to a
            ``fake_probability`` that the results state.

    Raises:
        ValueError: if the ground truth has no category that means fake, or more than two.
    """
    truth, result = metrics.ground_truth, metrics.modes[mode]
    fake_category = _fake_category(truth.category_names)
    ranked, pairs = result.matches.ranked, result.pairs
    order = np.lexsort((pairs.iou, pairs.detection))
    last = np.flatnonzero(np.diff(pairs.detection[order], append=-1))
    best = pairs.select(order[last])  # each detection's face of largest IoU
    shape = (len(truth), 2)
    class_scores = np.zeros(shape)
    label = (ranked.category[best.detection] == fake_category).astype(np.int64)
    scores = ranked.scores[best.detection]
    np.maximum.at(class_scores, (best.face, label), scores)
    detection, iou = np.full(len(truth), -1), np.zeros(len(truth))
    ascending = np.argsort(scores, kind="stable")  # so that the best is written last
    detection[best.face[ascending]] = ranked.entry[best.detection[ascending]]
    iou[best.face[ascending]] = best.iou[ascending]
    real_faces = np.flatnonzero(~truth.crowd)
    probability = _probability(class_scores, missing_score)
    if temperature != 1:
        probability = calibrate(probability, temperature)
    stated = metrics.detections.fake_probability[detection] if len(ranked) else probability
    probability = np.where((detection < 0) | np.isnan(stated), probability, stated)
    alone = np.ones(len(ranked), dtype=bool)
    alone[best.detection] = False
    return FaceVerdicts(
        face=real_faces,
        labels=(truth.category[real_faces] == fake_category).astype(np.int64),
        fake_probability=probability[real_faces],
        score=class_scores[real_faces].max(axis=1, initial=0.0),
        iou=iou[real_faces],
        detection=detection[real_faces],
        false_alarms=ranked.scores[alone],
    )


def face_metrics(verdicts: FaceVerdicts) -> ClassificationMetrics:
    """Face-level classification figures of a detector.

    Those of ``classification_metrics`` are over the faces that were found. On top of them:
    ``faces_found`` (the share that was found), and ``AUC_all``, the AUC over all faces with a
    missed face as the worst answer: a missed fake as P(fake) = 0, a missed real one as 1.

    Raises:
        ValueError: if no face was found at all.
    """
    found = ~np.isnan(verdicts.fake_probability)
    if not found.any():
        raise ValueError(f"none of {len(found)} faces was found: no face-level figures")
    metrics = classification_metrics(verdicts.labels[found], verdicts.fake_probability[found])
    everything = np.where(found, verdicts.fake_probability, 1 - verdicts.labels)
    metrics.values["faces_found"] = float(found.mean())
    metrics.values["AUC_all"] = auc(verdicts.labels, everything)
    if not found.all():
        metrics.notes.append(
            f"{(~found).sum()} of {len(found)} faces have no detection (at most "
            f"{MAX_DETECTIONS} per image and class are looked at): left out of all face-level "
            "figures but AUC_all, which counts them as the worst answer"
        )
    return metrics


def confusion(
    verdicts: FaceVerdicts,
    score_threshold: float = SCORE_THRESHOLD,
    fake_threshold: float = FAKE_THRESHOLD,
) -> tuple[np.ndarray, int]:
    """[2, 3] faces: rows real, fake; columns called real, called fake, missed. And false alarms.

    A face is missed if no detection of it reaches ``score_threshold``; a false alarm is a
    detection from that score on that belongs to no face.
    """
    table = np.zeros((2, 3), dtype=np.int64)
    called = (verdicts.fake_probability >= fake_threshold).astype(np.int64)  # NaN: not called
    shown = (verdicts.score >= score_threshold) & ~np.isnan(verdicts.fake_probability)
    np.add.at(table, (verdicts.labels, np.where(shown, called, MISSED_COLUMN)), 1)
    return table, int((verdicts.false_alarms >= score_threshold).sum())


def _probability(class_scores: np.ndarray, missing_score: float) -> np.ndarray:
    """[G] fake / (real + fake) from [G, 2] scores (real, fake); NaN where both are 0."""
    floor = np.minimum(class_scores.max(axis=1, keepdims=True, initial=0.0), missing_score)
    filled = np.where(class_scores > 0, class_scores, floor)
    total = filled.sum(axis=1)
    return np.divide(filled[:, 1], total, out=np.full(len(total), np.nan), where=total > 0)


def _fake_category(names: list[str]) -> int:
    fakes = [i for i, name in enumerate(names) if any(w in name.lower() for w in FAKE_NAMES)]
    if len(names) != 2 or len(fakes) != 1:
        raise ValueError(
            f"face-level figures need two categories, one of them with 'fake' or 'forged' in its "
            f"name; the ground truth has {names}"
        )
    return fakes[0]

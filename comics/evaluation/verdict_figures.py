"""Figures of a run as its user sees it: are faces found, and are the verdicts on them right?

AP counts classes and thresholds that a user never sees. Here a run's verdicts, one per face with
P(fake), are compared with a set made by ``tools/make_dataset.py``: by size of face, and by whether
the method that forged a face was seen in training. Intervals are bootstrapped over photos.

Shape letters: G annotated faces, crowds left out; P photos.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from comics.data.json_files import read_json
from comics.evaluation.classification import auc, bootstrap_interval
from comics.evaluation.faces import face_verdicts
from comics.evaluation.metrics import evaluate

MIN_SIDE = 24  # pixels, shorter side of a box: smaller faces are counted apart
SIZES = {"under 24 px": (0, 24), "24 to 48 px": (24, 48), "48 to 96 px": (48, 96),
         "96 px and more": (96, np.inf)}  # fmt: skip

COLUMNS = ("labels", "fake_probability", "scores", "sides", "mask_iou", "photos", "methods")


@dataclass(frozen=True)
class FaceRows:
    """Every annotated face and what was said of it.

    Attributes:
        labels: [G] 0 real, 1 fake.
        fake_probability: [G] in [0, 1]; NaN for a face that was not found.
        scores: [G] confidence that it is a face; 0 for one that was not found.
        sides: [G] shorter side of the box, pixels.
        mask_iou: [G] overlap of its mask with that of its verdict; 0 where not found.
        photos: [G] number of its photo, 0 to P - 1.
        methods: [G] what forged it; "" for a real one.
        false_scores: confidence of each verdict on what is no face.
        photo_count: P.
    """

    labels: np.ndarray
    fake_probability: np.ndarray
    scores: np.ndarray
    sides: np.ndarray
    mask_iou: np.ndarray
    photos: np.ndarray
    methods: np.ndarray
    false_scores: np.ndarray
    photo_count: int

    def __getitem__(self, chosen: np.ndarray) -> FaceRows:
        """The faces of a [G] bool mask; photos and false faces stay."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in COLUMNS})

    def shown_from(self, score: float) -> FaceRows:
        """As if faces were shown from this confidence on only."""
        hidden = self.scores < score
        return replace(
            self,
            fake_probability=np.where(hidden, np.nan, self.fake_probability),
            scores=np.where(hidden, 0.0, self.scores),
            mask_iou=np.where(hidden, 0.0, self.mask_iou),
            false_scores=self.false_scores[self.false_scores >= score],
        )

    @property
    def found(self) -> np.ndarray:
        """[G] whether the face was found."""
        return ~np.isnan(self.fake_probability)


@dataclass(frozen=True)
class Figure:
    """A share or an AUC, in [0, 1], with its 95 % interval, over ``count`` faces."""

    value: float
    low: float
    high: float
    count: int

    def text(self) -> str:
        """Times 100, with the interval."""
        if not self.count or np.isnan(self.value):
            return "-"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def face_rows(ground_truth: str | os.PathLike | Mapping, verdicts: Sequence[Mapping]) -> FaceRows:
    """Join annotations and verdicts.

    Args:
        ground_truth: a split of ``tools/make_dataset.py``, or any COCO file of real and fake
            faces, or the content of one; ``method`` of an annotation says what forged it.
        verdicts: COCO results with ``fake_probability``, one per face, as
            ``comics.runs.outputs`` writes them.

    Raises:
        ValueError, FileNotFoundError: as ``evaluate`` and ``face_verdicts``.
    """
    content: Any = ground_truth
    if not isinstance(ground_truth, Mapping):
        content = read_json(ground_truth)
    metrics = evaluate(content, list(verdicts), ("bbox", "segm"))
    truth, boxes = metrics.ground_truth, face_verdicts(metrics, "bbox")
    masks = face_verdicts(metrics, "segm")
    return FaceRows(
        labels=boxes.labels,
        fake_probability=boxes.fake_probability,
        scores=boxes.score,
        sides=truth.boxes[boxes.face, 2:].min(axis=1),
        mask_iou=masks.iou,
        photos=truth.image[boxes.face],
        methods=np.array(
            [content["annotations"][i].get("method") or "" for i in truth.entries[boxes.face]],
            str,
        ),
        false_scores=boxes.false_alarms,
        photo_count=len(truth.image_ids),
    )


def verdict_figures(
    rows: FaceRows, fake_threshold: float, unseen_methods: Sequence[str] = ()
) -> dict[str, Figure]:
    """The figures by name; AUC and error rates are over faces that were found.

    Args:
        rows: the faces to count, such as those of ``MIN_SIDE`` pixels and more.
        fake_threshold: a face is called forged from this P(fake) on.
        unseen_methods: those that the model was not trained on.
    """
    found = rows[rows.found]
    called = (found.fake_probability >= fake_threshold).astype(float)
    real, unseen = found.labels == 0, np.isin(found.methods, unseen_methods)
    shown = rows.found.astype(float)
    matched = found.mask_iou > 0
    figures = {
        "faces found": _share(shown, rows.photos),
        "real faces called forged": _share(called[real], found.photos[real]),
        "forged faces called forged": _share(called[~real], found.photos[~real]),
        "AUC": _auc(found),
        "AUC, seen forgeries": _auc(found[real | ~unseen]),
        "AUC, unseen forgeries": _auc(found[real | unseen]),
        "mask IoU": _share(found.mask_iou[matched], found.photos[matched]),
    }
    alarms = len(rows.false_scores) / max(rows.photo_count, 1)
    return figures | {"false faces a photo": Figure(alarms, np.nan, np.nan, rows.photo_count)}


def by_size(rows: FaceRows) -> dict[str, FaceRows]:
    """The faces of each of ``SIZES``."""
    return {
        name: rows[(rows.sides >= low) & (rows.sides < high)] for name, (low, high) in SIZES.items()
    }


def by_method(rows: FaceRows) -> dict[str, FaceRows]:
    """All real faces, with those that one method forged; for each method."""
    return {
        str(name): rows[(rows.labels == 0) | (rows.methods == name)]
        for name in np.unique(rows.methods[rows.labels == 1])
    }


def score_for(rows: FaceRows, false_faces: float) -> float:
    """The least confidence from which on at most so many false faces a photo are shown."""
    return least_threshold(rows.false_scores, int(np.floor(false_faces * rows.photo_count)))


def threshold_for(rows: FaceRows, false_alarm_rate: float) -> float:
    """The least P(fake) that at most this share of the found real faces reaches.

    Raises:
        ValueError: if no real face was found.
    """
    real = rows.fake_probability[rows.found & (rows.labels == 0)]
    if not len(real):
        raise ValueError("no real face was found: there is no threshold to choose")
    return least_threshold(real, int(np.floor(false_alarm_rate * len(real))))


def least_threshold(values: np.ndarray, allowed: int) -> float:
    """The least number in [0, 1] that at most ``allowed`` of the values, in [0, 1], reach."""
    if allowed >= len(values):
        return 0.0
    return float(min(1.0, np.nextafter(np.sort(values)[::-1][allowed], 2.0)))


def _share(values: np.ndarray, photos: np.ndarray) -> Figure:
    """Mean of numbers in [0, 1]."""
    if not len(values):
        return Figure(np.nan, np.nan, np.nan, 0)
    zeros = np.zeros(len(values), np.int64)
    low, high = bootstrap_interval(lambda _, scores: scores.mean(), zeros, values, photos.tolist())
    return Figure(float(values.mean()), low, high, len(values))


def _auc(rows: FaceRows) -> Figure:
    fakes = int(rows.labels.sum())
    if not fakes or fakes == len(rows.labels):
        return Figure(np.nan, np.nan, np.nan, 0)
    labels, scores = rows.labels, rows.fake_probability
    low, high = bootstrap_interval(auc, labels, scores, rows.photos.tolist())
    return Figure(auc(labels, scores), low, high, fakes)

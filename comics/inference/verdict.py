"""From the detections of one image, per class, to one verdict per face.

A detector scores each class on its own, so one face may be found as Real and again as Fake. Here
the detections of one place are merged, whatever their class, and their scores compared.

Shape letters: N detections, M faces; H, W height and width of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from comics.config import CfgNode
from comics.ops.verdicts import fake_probability, group_class_scores, merge_detections
from comics.structures import FAKE, REAL, Faces

__all__ = ["VerdictRule", "VideoRule", "fake_probability", "form_verdicts", "merge_detections"]

FacesLike = TypeVar("FacesLike", bound=Faces)
TEMPERATURE_KEY = "temperature"  # of a calibrated model file's metadata


@dataclass(frozen=True)
class VerdictRule:
    """How detections become verdicts.

    Attributes:
        score_threshold: faces with a lower confidence are dropped, in [0, 1].
        fake_threshold: a face is called forged from this P(fake) on, in [0, 1].
        merge_iou: detections whose boxes overlap at least this much are one face, in (0, 1].
        missing_score: what a class counts that was not detected at a face's place, in (0, 1].
        temperature: divides the logit of P(fake); 1 leaves it as it is.

    Raises:
        ValueError: naming the value that is out of its range.
    """

    score_threshold: float = 0.5
    fake_threshold: float = 0.5
    merge_iou: float = 0.5
    missing_score: float = 0.05
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("score_threshold", "fake_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("merge_iou", "missing_score"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @classmethod
    def from_config(cls, cfg: CfgNode, temperature: float = 1.0) -> VerdictRule:
        """The rule that ``cfg.TEST`` describes; the temperature belongs to the weights."""
        return cls(
            score_threshold=cfg.TEST.SCORE_THRESH,
            fake_threshold=cfg.TEST.FAKE_THRESH,
            merge_iou=cfg.TEST.MERGE_IOU,
            missing_score=cfg.TEST.MISSING_SCORE,
            temperature=temperature,
        )


def form_verdicts(detections: FacesLike, rule: VerdictRule) -> FacesLike:
    """One verdict per face.

    Detections are taken from the highest score down; each takes in the remaining ones whose boxes
    overlap its own by ``rule.merge_iou`` or more, whatever their class, and its box and mask stand
    for the face. A face's score for a class is the highest among its detections of that class.

    Args:
        detections: N faces with labels (0, 1) and scores, as a detector returns them, or its
            candidates, whose masks have not been drawn yet.
        rule: thresholds and calibration.

    Returns:
        M <= N of the same kind, highest score first: ``scores`` is the confidence that there is a
        face (the higher of the two class scores), ``fake_probability`` is P(fake), ``labels``
        follow it.

    Raises:
        ValueError: if the detections carry no scores.

    Source: decision; papers report per-class detections only.
    """
    if detections.scores is None:
        raise ValueError("verdicts need detections with scores; these have none")
    groups = merge_detections(detections.boxes, detections.scores, rule.merge_iou)
    leaders = [group[0] for group in groups]
    class_scores = group_class_scores(detections.labels, detections.scores, groups)
    probability = fake_probability(class_scores, rule.missing_score, rule.temperature)
    faces = replace(
        detections[leaders],
        labels=torch.where(probability >= rule.fake_threshold, FAKE, REAL),
        fake_probability=probability,
    )
    return faces[detections.scores[leaders] >= rule.score_threshold]


@dataclass(frozen=True)
class VideoRule:
    """How faces are followed and how their frames become verdicts.

    Attributes:
        fake_threshold: a track or video is called forged from this P(fake) on, in [0, 1].
        trim: share of a track's weight that is left out at either end, in [0, 0.5).
        min_frames: analysed frames that a track needs to speak for its video; where the longest
            track has fewer, as many as that one has.
        track_iou: boxes of one face in two frames overlap at least this much, in (0, 1].
        lost_seconds: a face that was not seen for longer starts a new track.
        below, above: P(fake) of a track from ``fake_threshold - below`` up to, but without,
            ``fake_threshold + above`` is too near the threshold; both in [0, 1].

    Raises:
        ValueError: naming the value that is out of its range.
    """

    fake_threshold: float = 0.5
    trim: float = 0.2
    min_frames: int = 3
    track_iou: float = 0.1
    lost_seconds: float = 1.0
    below: float = 0.0
    above: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fake_threshold <= 1:
            raise ValueError(f"fake_threshold must be in [0, 1], got {self.fake_threshold}")
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim must be in [0, 0.5), got {self.trim}")
        if self.min_frames < 1:
            raise ValueError(f"min_frames must be 1 or more, got {self.min_frames}")
        if not 0 < self.track_iou <= 1:
            raise ValueError(f"track_iou must be in (0, 1], got {self.track_iou}")
        if not 0 <= self.lost_seconds < float("inf"):
            raise ValueError(f"lost_seconds must be 0 or more, got {self.lost_seconds}")
        for name in ("below", "above"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> VideoRule:
        """The rule that ``cfg.TEST.VIDEO`` and ``cfg.TEST.FAKE_THRESH`` describe."""
        video = cfg.TEST.VIDEO
        return cls(
            fake_threshold=cfg.TEST.FAKE_THRESH,
            trim=video.TRIM,
            min_frames=video.MIN_FRAMES,
            track_iou=video.TRACK_IOU,
            lost_seconds=video.LOST_SECONDS,
            below=cfg.TEST.UNCLEAR.BELOW,
            above=cfg.TEST.UNCLEAR.ABOVE,
        )

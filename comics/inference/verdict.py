"""From the detections of one image, per class, to one verdict per face.

A detector scores each class on its own, so one face may be found as Real and again as Fake. Here
the detections of one place are merged, whatever their class, and their scores compared.

Shape letters: N detections, M faces; H, W height and width of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.ops.boxes import box_iou
from comics.structures import FAKE, REAL, Faces

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


def form_verdicts(detections: Faces, rule: VerdictRule) -> Faces:
    """One verdict per face.

    Detections are taken from the highest score down; each takes in the remaining ones whose boxes
    overlap its own by ``rule.merge_iou`` or more, whatever their class, and its box and mask stand
    for the face. A face's score for a class is the highest among its detections of that class.

    Args:
        detections: N faces with labels (0, 1) and scores, as a detector returns them.
        rule: thresholds and calibration.

    Returns:
        M <= N faces, highest score first: ``scores`` is the confidence that there is a face (the
        higher of the two class scores), ``fake_probability`` is P(fake), ``labels`` follow it.

    Raises:
        ValueError: if the detections carry no scores.

    Source: decision; papers report per-class detections only.
    """
    if detections.scores is None:
        raise ValueError("verdicts need detections with scores; these have none")
    groups = merge_detections(detections.boxes, detections.scores, rule.merge_iou)
    leaders = [group[0] for group in groups]
    class_scores = _class_scores(detections, groups)
    probability = fake_probability(class_scores, rule.missing_score, rule.temperature)
    faces = replace(
        detections[leaders],
        labels=torch.where(probability >= rule.fake_threshold, FAKE, REAL),
        fake_probability=probability,
    )
    return faces[faces.scores >= rule.score_threshold]


def merge_detections(boxes: Tensor, scores: Tensor, merge_iou: float) -> list[list[int]]:
    """Group [N, 4] boxes by place: lists of positions, each led by its highest score.

    Groups come highest score first; ties keep the order of the input.
    """
    overlap = box_iou(boxes, boxes) >= merge_iou
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    groups: list[list[int]] = []
    taken: set[int] = set()
    for leader in order:
        if leader in taken:
            continue
        group = [leader] + [
            other
            for other in order
            if other not in taken and other != leader and overlap[leader, other]
        ]
        taken.update(group)
        groups.append(group)
    return groups


def fake_probability(
    class_scores: Tensor, missing_score: float, temperature: float = 1.0
) -> Tensor:
    """P(fake) = fake / (fake + real), from [M, 2] scores (real, fake): [M] in [0, 1].

    A class that was not detected has score 0 here, though all that is known is that it lies below
    the detector's candidate threshold. It counts as ``missing_score``, the most it may be, so that
    a single weak detection does not become a certain verdict; never as more than the class that
    was detected, so that the label does not turn. The temperature divides the logit
    ``log(fake / real)`` (Guo et al. 2017).
    """
    floor = class_scores.amax(dim=1, keepdim=True).clamp(max=missing_score)
    filled = torch.where(class_scores > 0, class_scores, floor).double()
    tiny = torch.finfo(torch.float64).tiny  # two scores of 0 give a logit of 0
    logit = filled.clamp(min=tiny).log().diff(dim=1).squeeze(1)
    return torch.sigmoid(logit / temperature).to(class_scores.dtype)


def _class_scores(detections: Faces, groups: list[list[int]]) -> Tensor:
    """[M, 2] highest score of each class in each group; 0 where a class is absent."""
    table = detections.scores.new_zeros(len(groups), 2)
    for row, group in zip(table, groups, strict=True):
        row.scatter_reduce_(0, detections.labels[group], detections.scores[group], "amax")
    return table

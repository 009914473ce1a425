"""What the detections of one place say together: grouping, P(fake), and fusing two P(fake).

Shape letters: N detections; M faces.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comics.ops.boxes import box_iou

FUSIONS = ("mean_logit", "face", "detector", "max")
# Probabilities are kept this far from 0 and 1, whose logits are infinite, before logits are added
LOGIT_MARGIN = 1e-6


def merge_detections(boxes: Tensor, scores: Tensor, merge_iou: float) -> list[list[int]]:
    """Group [N, 4] boxes by place: lists of positions, each led by its highest score.

    Groups come highest score first; ties keep the order of the input.
    """
    overlap = (box_iou(boxes, boxes) >= merge_iou).tolist()
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    groups: list[list[int]] = []
    taken: set[int] = set()
    for leader in order:
        if leader in taken:
            continue
        group = [leader] + [
            other
            for other in order
            if other not in taken and other != leader and overlap[leader][other]
        ]
        taken.update(group)
        groups.append(group)
    return groups


def group_class_scores(labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    """[M, 2] highest score of each class in each group of detections; 0 where a class is absent.

    Args:
        labels: [N] int64, 0 real, 1 fake.
        scores: [N].
        groups: M lists of positions.
    """
    table = scores.new_zeros(len(groups), 2)
    for row, group in zip(table, groups, strict=True):
        row.scatter_reduce_(0, labels[group], scores[group], "amax")
    return table


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


def fuse_probabilities(detector: Tensor, face: Tensor, rule: str) -> Tensor:
    """One P(fake) of a detector's and a face method's: [M] in [0, 1]. Source: decision.

    Args:
        detector, face: [M] in [0, 1].
        rule: "mean_logit": ``sigmoid((logit a + logit b) / 2)``, two opinions of equal weight, the
            surer one counting more; "face" or "detector": that one alone; "max": the higher.

    Raises:
        ValueError: for another rule.
    """
    if rule not in FUSIONS:
        raise ValueError(f"MODEL.FACE.FUSION must be one of {', '.join(FUSIONS)}, got {rule!r}")
    if rule == "face":
        return face
    if rule == "detector":
        return detector
    if rule == "max":
        return torch.maximum(detector, face)
    logits = torch.logit(detector.double(), LOGIT_MARGIN) + torch.logit(face.double(), LOGIT_MARGIN)
    return torch.sigmoid(logits / 2).to(detector.dtype)

"""YOLACT: from predictions of anchors to detections (Bolya et al. 2019, arXiv:1904.02689, 3.4).

Shape letters: R anchors of an image; K classes; N candidates or detections.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from comics.ops.boxes import box_iou
from comics.ops.compiled import batched_nms

NMS_TYPES = ("fast", "greedy")


@dataclass(frozen=True)
class AnchorDetections:
    """Detections of one image, best first.

    Attributes:
        anchor: [N] int64, positions among its anchors.
        scores: [N] in [0, 1].
        labels: [N] int64.
    """

    anchor: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class AnchorSelector:
    """Thresholds and limits of the selection.

    Attributes:
        score_threshold: candidates need a class probability above it.
        candidates_per_class: that meet in the suppression.
        nms_threshold: IoU of the suppression, per class.
        nms_type: "fast" or "greedy".
        max_detections: per image.

    Raises:
        ValueError: for an unknown suppression.
    """

    score_threshold: float = 0.05
    candidates_per_class: int = 200
    nms_threshold: float = 0.5
    nms_type: str = "fast"
    max_detections: int = 100

    def __post_init__(self) -> None:
        if self.nms_type not in NMS_TYPES:
            raise ValueError(
                f"MODEL.YOLACT.NMS_TYPE must be one of {NMS_TYPES}, got {self.nms_type!r}"
            )

    def select(self, scores: Tensor, boxes: Tensor) -> AnchorDetections:
        """Of one image: class probabilities [R, K], boxes [R, 4]."""
        best = scores.topk(min(self.candidates_per_class, len(scores)), dim=0)  # [n, K] each
        row, label = (best.values > self.score_threshold).nonzero().unbind(dim=1)
        anchor, score = best.indices[row, label], best.values[row, label]
        order = score.argsort(descending=True, stable=True)
        anchor, score, label = anchor[order], score[order], label[order]
        if self.nms_type == "fast":
            chosen = fast_nms(boxes[anchor], label, self.nms_threshold)
        else:
            chosen = batched_nms(boxes[anchor], score, label, self.nms_threshold)
        chosen = chosen[: self.max_detections]
        return AnchorDetections(anchor[chosen], score[chosen], label[chosen])


def fast_nms(boxes: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Positions of boxes that no better one of their class overlaps by more than ``threshold``.

    Unlike in greedy suppression, also a suppressed box suppresses others.

    Args:
        boxes: [N, 4], best first.
        labels: [N].
    """
    overlap = box_iou(boxes, boxes) * (labels[:, None] == labels)
    worst = overlap.triu(diagonal=1).amax(dim=0) if len(boxes) else boxes.new_zeros(0)
    return (worst <= threshold).nonzero().squeeze(1)

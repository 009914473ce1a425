"""SOLOv2: from dense predictions to masks of faces.

Matrix NMS is section 3.4 of Wang et al. 2020 (arXiv:2003.10152); details as in AdelaiDet.

Shape letters: B images; K classes; E numbers of a kernel; S side of a level's grid; N candidates
or detections of one image; h, w mask map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from comics.config import CfgNode

MASKS_AT_ONCE = 256  # candidates whose soft masks are in memory together
NMS_TYPES = ("matrix", "mask")
NMS_KERNELS = ("gaussian", "linear")
SMALLEST_SHARE = 1e-6  # of a linear decay: a duplicate divides nothing by zero


@dataclass(frozen=True)
class MaskDetections:
    """Detections of one image, best first.

    Attributes:
        scores: [N] in [0, 1].
        labels: [N] int64.
        masks: [N, h, w] float, soft, in [0, 1].
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class MaskSelector:
    """Thresholds and limits of the selection.

    Attributes:
        smallest_areas: a candidate's mask must have more cells of the mask map, per level.
        score_threshold: candidates' class probabilities are above it.
        mask_threshold: a cell or pixel belongs to a mask above it.
        update_threshold: detections have this score at least after matrix NMS.
        pre_nms_topk: candidates of an image that meet in the suppression.
        max_detections: per image.
        nms_type: "matrix": scores decay; "mask": greedy, IoU above ``mask_threshold`` is out.
        nms_kernel, nms_sigma: decay of matrix NMS; sigma is the Gaussian's.
        node: of ``MODEL``, for messages.

    Raises:
        ValueError: for an unknown suppression or decay.
    """

    smallest_areas: tuple[int, ...]
    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    update_threshold: float = 0.05
    pre_nms_topk: int = 500
    max_detections: int = 100
    nms_type: str = "matrix"
    nms_kernel: str = "gaussian"
    nms_sigma: float = 2.0
    node: str = "SOLOV2"

    def __post_init__(self) -> None:
        if self.nms_type not in NMS_TYPES:
            raise ValueError(
                f"MODEL.{self.node}.NMS_TYPE must be one of {NMS_TYPES}, got {self.nms_type!r}"
            )
        if self.nms_kernel not in NMS_KERNELS:
            raise ValueError(
                f"MODEL.{self.node}.NMS_KERNEL must be one of {NMS_KERNELS}, got "
                f"{self.nms_kernel!r}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str = "SOLOV2") -> MaskSelector:
        """From ``MODEL.SOLOV2``, or a node of that name with the same keys."""
        node = cfg.MODEL[name]
        return cls(
            node=name,
            smallest_areas=tuple(node.FPN_INSTANCE_STRIDES),
            score_threshold=node.SCORE_THRESH_TEST,
            mask_threshold=node.MASK_THR,
            update_threshold=node.UPDATE_THR,
            pre_nms_topk=node.NMS_PRE,
            max_detections=node.MAX_PER_IMG,
            nms_type=node.NMS_TYPE,
            nms_kernel=node.NMS_KERNEL,
            nms_sigma=node.NMS_SIGMA,
        )

    def select(
        self, class_logits: Sequence[Tensor], kernels: Sequence[Tensor], mask_features: Tensor
    ) -> list[MaskDetections]:
        """Detections of each image.

        The score is the class probability times the mean probability within the mask.

        Args:
            class_logits: per level [B, K, S, S] float32.
            kernels: per level [B, E, S, S] float32.
            mask_features: [B, E, h, w] float32.
        """
        kernel = torch.cat([level.flatten(2) for level in kernels], dim=2)
        found = []
        for image, features in enumerate(mask_features):
            flat, own = features.flatten(1), kernel[image].T

            def soft(cell: Tensor, own: Tensor = own, flat: Tensor = flat) -> Tensor:
                return (own[cell] @ flat).sigmoid()

            logits = [level[image] for level in class_logits]
            found.append(self.select_cells(logits, soft, tuple(features.shape[1:])))
        return found

    def select_cells(
        self,
        class_logits: Sequence[Tensor],
        soft_masks: Callable[[Tensor], Tensor],
        size: tuple[int, ...],
    ) -> MaskDetections:
        """Detections of one image; the score is as of ``select``.

        Args:
            class_logits: per level [K, S, S] float32.
            soft_masks: of cells [N], counted through all levels: [N, h * w] in [0, 1].
            size: (h, w).
        """
        probability = torch.cat(
            [suppress_points(logits.sigmoid()[None])[0].flatten(1) for logits in class_logits], 1
        ).T
        smallest = torch.cat(
            [
                torch.full_like(level[0].flatten(), area)
                for level, area in zip(class_logits, self.smallest_areas, strict=True)
            ]
        )
        cell, labels = (probability > self.score_threshold).nonzero(as_tuple=True)
        area, certainty = self._area_and_certainty(soft_masks, cell)
        scores = probability[cell, labels] * certainty
        large = (area > smallest[cell]).nonzero().squeeze(1)
        order = scores[large].argsort(descending=True, stable=True)[: self.pre_nms_topk]
        kept = large[order]
        soft = soft_masks(cell[kept])
        scores, chosen = self._suppress(soft > self.mask_threshold, labels[kept], scores[kept])
        ranked = chosen[scores[chosen].argsort(descending=True, stable=True)]
        ranked = ranked[: self.max_detections]
        masks = soft[ranked].view(-1, *size)
        return MaskDetections(scores[ranked], labels[kept][ranked], masks)

    def _area_and_certainty(
        self, soft_masks: Callable[[Tensor], Tensor], cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cells of each candidate's mask [N], and the mean probability there [N]."""
        areas, certainties = [cell.new_zeros(0)], [torch.zeros(0, device=cell.device)]
        for part in cell.split(MASKS_AT_ONCE):
            soft = soft_masks(part)
            inside = soft > self.mask_threshold
            area = inside.sum(dim=1)
            areas.append(area)
            certainties.append((soft * inside).sum(dim=1) / area.clamp(min=1))
        return torch.cat(areas), torch.cat(certainties)

    def _suppress(self, masks: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """New scores [N] and the positions that stay; masks [N, h * w] bool, best first."""
        overlap = same_class_overlap(masks, labels)
        if self.nms_type == "mask":
            return scores, greedy_nms(overlap, self.mask_threshold)
        decayed = scores * matrix_decay(overlap, self.nms_kernel, self.nms_sigma)
        return decayed, (decayed >= self.update_threshold).nonzero().squeeze(1)


def suppress_points(probability: Tensor) -> Tensor:
    """Zero for values below a neighbour above, to the left, or above and to the left.

    Args:
        probability: [B, K, S, S].
    """
    largest = functional.max_pool2d(probability, 2, stride=1, padding=1)[..., :-1, :-1]
    return probability * (largest == probability)


def same_class_overlap(masks: Tensor, labels: Tensor) -> Tensor:
    """[N, N]: IoU of masks i < j [N, cells] bool of one class, 0 elsewhere."""
    cells = masks.float()
    common = cells @ cells.T
    area = cells.sum(dim=1)
    union = area[:, None] + area - common
    iou = common / union.clamp(min=1)
    return (iou * (labels[:, None] == labels)).triu(diagonal=1)


def matrix_decay(overlap: Tensor, kernel: str, sigma: float) -> Tensor:
    """Factor [N] on each score from ``same_class_overlap`` [N, N], best first (eq. 5 and 6).

    min over i of f(o_ij) / f(max_k o_ki), f a Gaussian exp(-sigma o^2) or linear 1 - o: a mask is
    played down by a better one unless that one is itself a likely duplicate.
    """
    if not len(overlap):
        return overlap.new_zeros(0)
    covered = overlap.amax(dim=0)[:, None]
    if kernel == "gaussian":
        decay = torch.exp(-sigma * (overlap**2 - covered**2))
    else:
        decay = (1 - overlap) / (1 - covered).clamp(min=SMALLEST_SHARE)
    return decay.amin(dim=0)


def greedy_nms(overlap: Tensor, threshold: float) -> Tensor:
    """Positions that stay when each kept mask removes those of a larger IoU after it."""
    rival = (overlap > threshold).cpu()
    alive = torch.ones(len(rival), dtype=torch.bool)
    for index in range(len(rival)):
        if alive[index]:
            alive &= ~rival[index]
    return alive.nonzero().squeeze(1).to(overlap.device)

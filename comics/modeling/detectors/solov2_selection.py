"""SOLOv2: from dense predictions to masks of faces.

Matrix NMS is section 3.4 of Wang et al. 2020 (arXiv:2003.10152); details as in AdelaiDet.

Shape letters: B images; K classes; E numbers of a kernel; S side of a level's grid; N candidates
or detections of one image; h, w mask map; H, W output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import masks_to_boxes

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

    def __post_init__(self) -> None:
        if self.nms_type not in NMS_TYPES:
            raise ValueError(
                f"MODEL.SOLOV2.NMS_TYPE must be one of {NMS_TYPES}, got {self.nms_type!r}"
            )
        if self.nms_kernel not in NMS_KERNELS:
            raise ValueError(
                f"MODEL.SOLOV2.NMS_KERNEL must be one of {NMS_KERNELS}, got {self.nms_kernel!r}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskSelector:
        """From ``MODEL.SOLOV2``."""
        node = cfg.MODEL.SOLOV2
        return cls(
            smallest_areas=tuple(node.FPN_INSTANCE_STRIDES),
            score_threshold=node.SCORE_THR,
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
        probability = torch.cat(
            [suppress_points(logits.sigmoid()).flatten(2) for logits in class_logits], dim=2
        )
        kernel = torch.cat([level.flatten(2) for level in kernels], dim=2)
        smallest = torch.cat(
            [
                torch.full_like(level[0, 0].flatten(), area)
                for level, area in zip(kernels, self.smallest_areas, strict=True)
            ]
        )
        return [
            self._select_one(probability[i].T, kernel[i].T, smallest, mask_features[i])
            for i in range(len(mask_features))
        ]

    def _select_one(
        self, probability: Tensor, kernel: Tensor, smallest: Tensor, features: Tensor
    ) -> MaskDetections:
        """One image: [cells, K], [cells, E], [cells], [E, h, w]."""
        cell, labels = (probability > self.score_threshold).nonzero(as_tuple=True)
        flat = features.flatten(1)
        area, certainty = self._area_and_certainty(kernel[cell], flat)
        scores = probability[cell, labels] * certainty
        large = (area > smallest[cell]).nonzero().squeeze(1)
        order = scores[large].argsort(descending=True, stable=True)[: self.pre_nms_topk]
        kept = large[order]
        soft = (kernel[cell[kept]] @ flat).sigmoid()
        scores, chosen = self._suppress(soft > self.mask_threshold, labels[kept], scores[kept])
        ranked = chosen[scores[chosen].argsort(descending=True, stable=True)]
        ranked = ranked[: self.max_detections]
        masks = soft[ranked].view(-1, *features.shape[1:])
        return MaskDetections(scores[ranked], labels[kept][ranked], masks)

    def _area_and_certainty(self, kernel: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Cells of each candidate's mask [N], and the mean probability there [N]."""
        areas, certainties = [flat.new_zeros(0)], [flat.new_zeros(0)]
        for part in kernel.split(MASKS_AT_ONCE):
            soft = (part @ flat).sigmoid()
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


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks [N, H, W] bool, edges exclusive: [N, 4] float; zeros where empty."""
    found = masks.flatten(1).any(dim=1)
    boxes = torch.zeros((len(masks), 4), device=masks.device)
    boxes[found] = masks_to_boxes(masks[found]) + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return boxes


def enlarge_masks(
    soft: Tensor,
    *,
    stride: int,
    size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Soft masks on the mask map to masks of the output, and their boxes.

    Bilinear interpolation to the network's input, cut to its unpadded part, bilinear interpolation
    to the output, then > threshold. Both steps are linear and act on rows and columns apart, so
    each mask is two matrix products, and only for the pixels that it can reach: the cost grows
    with the area of the faces, not with their number times the image.

    Args:
        soft: [N, h, w] float32.
        stride: pixels of the input per cell.
        size: (height, width) of the input before padding.
        output_size: (H, W).
        threshold: in [0, 1).

    Returns:
        [N, H, W] bool, and the tight boxes [N, 4], without area where a mask is empty.
    """
    boxes = soft.new_zeros(len(soft), 4)
    canvas = torch.zeros((len(soft), *output_size), dtype=torch.bool, device=soft.device)
    rows, columns = (
        _interpolation(cells, stride, inner, outer, soft)
        for cells, inner, outer in zip(soft.shape[1:], size, output_size, strict=True)
    )
    row_reach, column_reach = _reach(rows), _reach(columns)
    # interpolated values lie between those of the cells they come from
    reached = mask_boxes(soft > threshold).int().tolist()
    for index, (left, top, right, bottom) in enumerate(reached):
        y0, y1 = _pixels(row_reach, top, bottom)
        x0, x1 = _pixels(column_reach, left, right)
        inside = rows[y0:y1] @ soft[index] @ columns[x0:x1].T > threshold
        canvas[index, y0:y1, x0:x1] = inside
        boxes[index] = mask_boxes(inside[None])[0] + boxes.new_tensor([x0, y0, x0, y0])
    return canvas, boxes


def _interpolation(cells: int, stride: int, inner: int, outer: int, like: Tensor) -> Tensor:
    """[outer, cells] weights: what bilinear interpolation does to each cell's unit impulse."""
    impulses = torch.eye(cells, device=like.device, dtype=like.dtype)[None]
    fine = functional.interpolate(
        impulses, scale_factor=stride, mode="linear", align_corners=False
    )[..., :inner]
    return functional.interpolate(fine, size=outer, mode="linear", align_corners=False)[0].T


def _reach(weights: Tensor) -> list[tuple[int, int]]:
    """Per cell the first and one past the last pixel with a weight; (0, 0) where there is none."""
    return mask_boxes((weights.T > 0)[:, None])[:, [0, 2]].int().tolist()


def _pixels(reach: list[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    """Range of the pixels that cells first..last - 1 reach; empty if there are none."""
    spans = [span for span in reach[first:last] if span[1]]
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)

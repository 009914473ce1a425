"""FCOS: from dense predictions to detections.

Shape letters: B images; N detections of an image; K classes; h, w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from comics.config import CfgNode
from comics.modeling.detectors.fcos_targets import level_locations

REJECTED = -1.0  # ranks below any product of two probabilities


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first, before scaling to the output.

    Attributes:
        boxes: [N, 4] pixels of the network's input, not clipped.
        scores: [N] in [0, 1].
        labels: [N] int64.
        level: [N] int64, position among the levels.
        cell: [N] int64, row * w + column in the level's map.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    level: Tensor
    cell: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Detections:
        """Select by an index or bool tensor."""
        return Detections(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Selector:
    """Thresholds and limits of the selection.

    Attributes:
        strides: pixels per cell, per level.
        score_threshold: candidates are above it.
        threshold_with_quality: compare class probability times quality with it, not the class
            probability alone.
        nms_threshold: IoU of the per-class suppression; <= 0 disables it.
        pre_nms_topk: candidates per level and image.
        post_nms_topk: detections per image; more only where scores are equal.
    """

    strides: tuple[int, ...]
    score_threshold: float = 0.05
    threshold_with_quality: bool = False
    nms_threshold: float = 0.6
    pre_nms_topk: int = 1000
    post_nms_topk: int = 100

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Selector:
        """From ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return cls(
            strides=tuple(node.FPN_STRIDES),
            score_threshold=node.INFERENCE_TH_TEST,
            threshold_with_quality=node.THRESH_WITH_CTR,
            nms_threshold=node.NMS_TH,
            pre_nms_topk=node.PRE_NMS_TOPK_TEST,
            post_nms_topk=node.POST_NMS_TOPK_TEST,
        )

    def select(
        self,
        class_logits: Sequence[Tensor],
        distances: Sequence[Tensor],
        quality_logits: Sequence[Tensor],
    ) -> list[Detections]:
        """Detections of each image.

        The score is sqrt(class probability * quality); the product ranks the candidates.

        Args:
            class_logits: per level [B, K, h, w].
            distances: per level [B, 4, h, w], in strides.
            quality_logits: per level [B, 1, h, w].
        """
        levels = [
            self._candidates(index, *maps)
            for index, maps in enumerate(zip(class_logits, distances, quality_logits, strict=True))
        ]
        rank, boxes, labels, level, cell = (
            torch.cat(part, dim=1) for part in zip(*levels, strict=True)
        )
        chosen = []
        for image in range(len(rank)):
            keep = rank[image] > REJECTED
            candidates = Detections(
                boxes[image][keep],
                rank[image][keep].sqrt(),
                labels[image][keep],
                level[image][keep],
                cell[image][keep],
            )
            chosen.append(self._suppress(candidates))
        return chosen

    def _candidates(
        self, index: int, class_logits: Tensor, distances: Tensor, quality_logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Best (location, class) pairs of a level: [B, T] each, boxes [B, T, 4]."""
        classes = class_logits.shape[1]
        probability = class_logits.float().flatten(2).sigmoid().transpose(1, 2)  # [B, h * w, K]
        product = probability * quality_logits.float().flatten(2).sigmoid().transpose(1, 2)
        tested = product if self.threshold_with_quality else probability
        ranked = torch.where(tested > self.score_threshold, product, REJECTED).flatten(1)
        rank, pair = ranked.topk(min(self.pre_nms_topk, ranked.shape[1]), dim=1)
        cell = pair // classes
        chosen = (
            distances.float()
            .flatten(2)
            .transpose(1, 2)
            .gather(1, cell[..., None].expand(-1, -1, 4))
        )
        boxes = boxes_at_cells(chosen, cell, class_logits.shape[-2:], self.strides[index])
        return rank, boxes, pair % classes, torch.full_like(cell, index), cell

    def _suppress(self, candidates: Detections) -> Detections:
        if self.nms_threshold > 0:
            kept = batched_nms(
                candidates.boxes, candidates.scores, candidates.labels, self.nms_threshold
            )
        else:
            kept = candidates.scores.argsort(descending=True, stable=True)
        detections = candidates[kept]
        if len(detections) <= self.post_nms_topk:
            return detections
        lowest = detections.scores.topk(self.post_nms_topk).values[-1]
        return detections[detections.scores >= lowest]


def boxes_at_cells(
    distances: Tensor, cell: Tensor, map_size: tuple[int, int], stride: int
) -> Tensor:
    """Boxes [..., 4] in pixels from distances [..., 4] in strides, predicted at cells [...]."""
    points = level_locations(*map_size, stride, cell.device)[cell]
    reach = distances * stride
    return torch.cat((points - reach[..., :2], points + reach[..., 2:]), dim=-1)


def image_of_each(groups: Sequence[Tensor]) -> Tensor:
    """[P] int64: position of the image that each row belongs to.

    Args:
        groups: per image [P_i, ...]; at least one image.
    """
    counts = torch.tensor([len(group) for group in groups], device=groups[0].device)
    return torch.arange(len(groups), device=counts.device).repeat_interleave(counts)


def detected_cells(found: Sequence[Detections]) -> tuple[Tensor, Tensor, Tensor]:
    """Level, image and cell, [P] int64 each, of the detections of all images, in order."""
    level = torch.cat([one.level for one in found])
    cell = torch.cat([one.cell for one in found])
    return level, image_of_each([one.boxes for one in found]), cell

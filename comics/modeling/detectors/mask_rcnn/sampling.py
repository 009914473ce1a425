"""Which proposals the heads of Mask R-CNN learn from (Girshick 2015, arXiv:1504.08083, section 2.3;
Ren et al. 2015, arXiv:1506.01497). Details as in Detectron2's ``MODEL.ROI_HEADS`` keys.

Shape letters: N_i proposals of image i; P sampled proposals of the batch; F_i faces of image i; K
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from comics.config import CfgNode
from comics.ops.boxes import box_iou
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces


@dataclass(frozen=True)
class SampledProposals:
    """Proposals with what they ought to be, image by image.

    Attributes:
        boxes: [P, 4], pixels of the network's input; without gradient.
        image: [P] int64, position of the image in the batch.
        face: [P] int64, position of the best overlapping face among its image's; -1 where the
            image has none.
        labels: [P] int64: class of that face, or K for background.
        target_boxes: [P, 4], the box of that face; the proposal itself where there is none.
    """

    boxes: Tensor
    image: Tensor
    face: Tensor
    labels: Tensor
    target_boxes: Tensor

    @cached_property
    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """``image`` and ``labels`` [P] int64 on the host; the device is waited for once."""
        image, labels = on_host(self.image, self.labels)
        return image, labels

    def __getitem__(self, rows: np.ndarray) -> SampledProposals:
        """Select by positions that the host knows."""
        index = on_device(rows, self.boxes.device)
        found = SampledProposals(
            self.boxes[index],
            self.image[index],
            self.face[index],
            self.labels[index],
            self.target_boxes[index],
        )
        image, labels = self.on_host
        found.__dict__["on_host"] = (image[rows], labels[rows])  # known already
        return found

    def faces(self, num_classes: int) -> np.ndarray:
        """Positions of those that are no background."""
        return np.flatnonzero(self.on_host[1] < num_classes)

    def of_image(self, position: int) -> np.ndarray:
        """Positions of those in an image of the batch."""
        return np.flatnonzero(self.on_host[0] == position)

    def per_image(self, count: int) -> list[Tensor]:
        """The boxes of each of ``count`` images."""
        return list(self.boxes.split(np.bincount(self.on_host[0], minlength=count).tolist()))


class BalancedSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler with the same draws, which waits once for all images, not twice each.

    A choice among the marked places is made by their numbers, so their positions are not needed.
    """

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks [R] of the chosen positives (>= 1) and negatives (0), uint8, of each image."""
        groups = [(one >= 1, one == 0) for one in matched_idxs]
        counts = torch.stack([mask.sum() for group in groups for mask in group]).tolist()
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        most = int(self.batch_size_per_image * self.positive_fraction)
        for position, group in enumerate(groups):
            positives, negatives = counts[2 * position : 2 * position + 2]
            wanted = min(positives, most)
            limits = (wanted, min(negatives, self.batch_size_per_image - wanted))
            for masks, mask, count, limit in zip(
                chosen, group, (positives, negatives), limits, strict=True
            ):
                masks.append(_draw(mask, count, limit))
        return chosen


def _draw(mask: Tensor, count: int, limit: int) -> Tensor:
    """``limit`` of the ``count`` places where a mask [R] is set, at random: [R] uint8."""
    drawn = torch.randperm(count, device=mask.device)[:limit]
    taken = torch.zeros(count + 1, dtype=torch.uint8, device=mask.device)  # 0: before the first
    taken[drawn + 1] = 1
    return taken[mask.cumsum(dim=0)] * mask


class ProposalSampler:
    """Labels proposals by their overlap with faces, and draws a fixed number of each image.

    ``choose`` makes the draw (torchvision's sampler), and may be replaced.

    Args:
        num_classes: K.
        iou_threshold: from this overlap on a proposal is its best face's; below, background.
        proposals_per_image: drawn at most.
        positive_fraction: at most this share of them are faces.
        append_ground_truth: the faces' own boxes are proposals too.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        iou_threshold: float = 0.5,
        proposals_per_image: int = 512,
        positive_fraction: float = 0.25,
        append_ground_truth: bool = True,
    ) -> None:
        self.num_classes = num_classes
        self.matcher = Matcher(iou_threshold, iou_threshold, allow_low_quality_matches=False)
        self.choose = BalancedSampler(proposals_per_image, positive_fraction)
        self.append_ground_truth = append_ground_truth

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ProposalSampler:
        """From ``MODEL.ROI_HEADS``.

        Raises:
            ValueError: for more than one threshold.
        """
        node = cfg.MODEL.ROI_HEADS
        if len(node.IOU_THRESHOLDS) != 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS must be one number, got {node.IOU_THRESHOLDS}"
            )
        return cls(
            node.NUM_CLASSES,
            iou_threshold=node.IOU_THRESHOLDS[0],
            proposals_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            append_ground_truth=node.PROPOSAL_APPEND_GT,
        )

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Tensor], targets: Sequence[Faces]) -> SampledProposals:
        """Draw from per-image proposals [N_i, 4]."""
        labelled = [
            self._labelled(boxes, faces, position)
            for position, (boxes, faces) in enumerate(zip(proposals, targets, strict=True))
        ]
        is_face = [(one.labels < self.num_classes).long() for one in labelled]
        positive, negative = (torch.cat(masks) for masks in self.choose(is_face))
        every = SampledProposals(
            *(
                torch.cat([getattr(one, name) for one in labelled])
                for name in SampledProposals.__dataclass_fields__
            )
        )
        image, labels, drawn = on_host(every.image, every.labels, (positive + negative) > 0)
        every.__dict__["on_host"] = (image, labels)  # known already
        return every[np.flatnonzero(drawn)]

    def _labelled(self, boxes: Tensor, faces: Faces, position: int) -> SampledProposals:
        truth = faces.boxes.to(boxes)
        if self.append_ground_truth:
            boxes = torch.cat((boxes, truth))
        image = torch.full((len(boxes),), position, device=boxes.device)
        if len(truth) == 0 or len(boxes) == 0:
            background = torch.full_like(image, self.num_classes)
            return SampledProposals(boxes, image, torch.full_like(image, -1), background, boxes)
        overlap = box_iou(truth, boxes)
        face = overlap.argmax(dim=0)
        matched = self.matcher(overlap) >= 0
        labels = torch.where(matched, faces.labels[face], self.num_classes)
        return SampledProposals(boxes, image, face, labels, truth[face])

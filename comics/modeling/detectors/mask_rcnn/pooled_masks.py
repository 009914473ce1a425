"""The third stage of Mask R-CNN on its own: masks predicted from features pooled within boxes, for
every detector whose masks are made so.

Shape letters: B images; C channels; P positives of the batch; N detections or faces of an image; S
side of pooled features; R side of masks (2 S).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comics.modeling.detectors.base import Detector, TrainingOutput
from comics.modeling.detectors.candidates import Candidates, SquareMasks
from comics.modeling.detectors.mask_iou import MaskIoUHead, mask_iou_targets
from comics.modeling.detectors.mask_rcnn.heads import BoxDetections, MaskHead, mask_loss
from comics.modeling.detectors.mask_rcnn.sampling import ProposalSampler, SampledProposals
from comics.modeling.detectors.pooling import PyramidPooler
from comics.ops.boxes import clip_boxes, nonempty
from comics.ops.roi_masks import crop_and_resize
from comics.ops.transfers import on_device, on_host
from comics.structures import Faces


class PooledMaskDetector(Detector):
    """A detector with masks of its boxes; a constructor sets the attributes.

    Attributes:
        mask_pooler, mask_head: features within boxes, and masks of them.
        mask_iou_head: tells how good a mask is; a detection's score is multiplied by that. None:
            scores are those of the boxes.
        sampler: draws the boxes that masks are learnt from.
        mask_on: False leaves the masks out of inference.
    """

    mask_pooler: PyramidPooler
    mask_head: MaskHead
    mask_iou_head: MaskIoUHead | None
    sampler: ProposalSampler
    mask_on: bool

    @torch.no_grad()
    def trained_boxes(
        self,
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Faces],
    ) -> SampledProposals:
        """Of boxes that a one-stage detector has found, those that overlap a face.

        Args:
            boxes: per image [N, 4] pixels; clipped here.
            sizes: (height, width) of each image before padding.
            targets: ground truth; the faces' own boxes are among the result, if the sampler is so.
        """
        clipped = [clip_boxes(one, size) for one, size in zip(boxes, sizes, strict=True)]
        usable = on_host(*(nonempty(one) for one in clipped))
        given = [
            one[on_device(np.flatnonzero(kept), one.device)]
            for one, kept in zip(clipped, usable, strict=True)
        ]
        sampled = self.sampler(given, targets)
        return sampled[sampled.faces(self.sampler.num_classes)]

    def pool_masks(
        self,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """[P, C, S, S] of boxes (one [N, 4] per image) in images of those sizes."""
        return self.mask_pooler(features, boxes)

    def mask_losses(
        self,
        features: Mapping[str, Tensor],
        positive: SampledProposals,
        targets: Sequence[Faces],
    ) -> dict[str, Tensor]:
        """ "loss_mask", the mean over the pixels of all positives' masks, and "loss_maskiou"."""
        boxes = positive.per_image(len(targets))
        pooled = self.pool_masks(features, boxes, [faces.image_size for faces in targets])
        logits = self.mask_head(pooled, positive.labels)
        wanted = torch.zeros_like(logits, dtype=torch.bool)
        areas = logits.new_zeros(len(logits))
        for position, faces in enumerate(targets):
            if len(faces):
                here = on_device(positive.of_image(position), logits.device)
                face = positive.face[here]
                wanted[here] = crop_and_resize(
                    faces.known_masks, positive.boxes[here], logits.shape[-1], face
                )
                areas[here] = faces.known_masks.flatten(1).sum(dim=1).to(areas)[face]
        losses = {"loss_mask": mask_loss(logits, wanted)}
        if self.mask_iou_head is not None:
            iou = mask_iou_targets(logits, wanted, positive.boxes, areas)
            predicted = self.mask_iou_head(pooled, logits, positive.labels)
            losses["loss_maskiou"] = self.mask_iou_head.loss(predicted, iou)
        return losses

    def masked_candidates(
        self,
        features: Mapping[str, Tensor],
        detections: Sequence[BoxDetections],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Candidates]:
        """The detections of images of those sizes with their masks, best first."""
        if not self.mask_on:
            return [
                to_candidates(one, None, size) for one, size in zip(detections, sizes, strict=True)
            ]
        soft, scores = self.square_masks(features, detections, sizes)
        found = []
        for one, squares, score, size in zip(detections, soft, scores, sizes, strict=True):
            order = score.argsort(descending=True, stable=True)
            ranked = BoxDetections(one.boxes[order], score[order], one.labels[order])
            found.append(to_candidates(ranked, squares[order], size))
        return found

    def square_masks(
        self,
        features: Mapping[str, Tensor],
        detections: Sequence[BoxDetections],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image the soft masks [N, R, R] in [0, 1] that fill the detections' boxes, and the
        scores [N] in [0, 1].
        """
        counts = [len(one.labels) for one in detections]
        labels = torch.cat([one.labels for one in detections])
        scores = torch.cat([one.scores for one in detections])
        pooled = self.pool_masks(features, [one.boxes for one in detections], sizes)
        logits = self.mask_head(pooled, labels)
        if self.mask_iou_head is not None:
            scores = scores * self.mask_iou_head(pooled, logits, labels).clamp(0, 1)
        return list(logits.sigmoid().split(counts)), list(scores.split(counts))

    def pooled_example(
        self, head: str, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Features and labels for the mask head; those and mask logits for the other."""
        side, classes = self.mask_pooler.size, self.mask_head.num_classes
        pooled = torch.randn(count, self.backbone.out_channels, side, side, generator=generator)
        labels = torch.randint(classes, (count,), generator=generator)
        if head == "mask_head":
            return pooled, labels
        return pooled, torch.randn(count, 2 * side, 2 * side, generator=generator), labels

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """What the mask head doubles, for boxes (one [F_i, 4] per image): [F, C, size, size].

        Resized bilinearly where the head's resolution is another
        (docs/methods.md#comics-pixel-maps).
        """
        return resized(self.mask_head.convolved(self.mask_pooler(output.features, boxes)), size)


def resized(convolved: Tensor, size: int) -> Tensor:
    """[F, C, S, S] to [F, C, size, size] float32, bilinearly."""
    convolved = convolved.float()
    if convolved.shape[-1] == size:
        return convolved
    return functional.interpolate(convolved, (size, size), mode="bilinear")


def to_candidates(found: BoxDetections, soft: Tensor | None, size: tuple[int, int]) -> Candidates:
    """Detections with their square masks.

    Args:
        found: in pixels of the network's input.
        soft: [N, R, R] in [0, 1]; None for no masks.
        size: (height, width) of the network's input before padding.
    """
    masks = None if soft is None else SquareMasks(soft, found.boxes)
    return Candidates.of(found.boxes, found.scores, found.labels, size, masks)

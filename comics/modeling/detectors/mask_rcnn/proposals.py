"""Region proposal network of Mask R-CNN (Ren et al. 2015, arXiv:1506.01497, section 3), on
torchvision's ``RegionProposalNetwork``.

Overridden where Detectron2 differs from torchvision: anchors are neither rounded nor spaced by
the image's size, losses are L1 and divided by the number of anchors asked for, the suppression
ranks logits (probabilities of 1 would tie), and the smallest proposal is a key.

Shape letters: B images; A anchors per cell; h, w of a level; R anchors of an image, ordered
level -> row -> column -> anchor; N proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)

from comics.config import CfgNode
from comics.modeling.detectors.anchors import PyramidAnchors
from comics.modeling.detectors.deltas import DeltaCoder
from comics.modeling.detectors.mask_rcnn.sampling import BalancedSampler
from comics.ops.boxes import clip_boxes
from comics.ops.compiled import batched_nms
from comics.ops.transfers import on_device, on_host

SAME_WIDTH = -1  # Detectron2's "as wide as the input" in MODEL.RPN.CONV_DIMS


class ProposalHead(RPNHead):
    """torchvision's head, with float32 output under autocast."""

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level [B, A, h, w] objectness logits and [B, 4 A, h, w] deltas."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class OverlapMatcher(Matcher):
    """torchvision's matcher; a face that no anchor touches makes no anchor positive.

    Otherwise the best overlap of such a face, 0, would be that of nearly every anchor.
    """

    def set_low_quality_matches_(
        self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor
    ) -> None:
        """Match each face with its best anchors; arguments and effect as torchvision's."""
        highest = match_quality_matrix.amax(dim=1, keepdim=True)
        best = ((match_quality_matrix == highest) & (highest > 0)).any(dim=0)
        matches.copy_(torch.where(best, all_matches, matches))


class ProposalNetwork(RegionProposalNetwork):
    """Boxes that may hold a face, and the two losses that teach it.

    ``fg_bg_sampler`` chooses the anchors of the losses, and may be replaced.

    Args:
        levels: names of the pyramid's levels that it sees, finest first.
        anchors, head: for those levels.
        iou_thresholds: anchors below the first are background, from the second on faces; those
            in between take no part.
        anchors_per_image: sampled for the losses.
        positive_fraction: at most this share of them are faces.
        pre_nms_topk, post_nms_topk: proposals (training, inference), per level before the
            suppression and in all after it.
        nms_threshold: IoU of the suppression, per level.
        min_size: proposals must be wider and higher than this, pixels.
        box_weights: factors on the deltas (dx, dy, dw, dh).
        smooth_l1_beta: where the box loss turns from square to linear; 0 is L1.
        objectness_weight, box_weight: factors on the losses.
    """

    def __init__(
        self,
        *,
        levels: Sequence[str],
        anchors: PyramidAnchors,
        head: ProposalHead,
        iou_thresholds: tuple[float, float] = (0.3, 0.7),
        anchors_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (2000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        nms_threshold: float = 0.7,
        min_size: float = 0.0,
        box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        smooth_l1_beta: float = 0.0,
        objectness_weight: float = 1.0,
        box_weight: float = 1.0,
    ) -> None:
        background, foreground = iou_thresholds
        super().__init__(
            anchors,
            head,
            fg_iou_thresh=foreground,
            bg_iou_thresh=background,
            batch_size_per_image=anchors_per_image,
            positive_fraction=positive_fraction,
            pre_nms_top_n=dict(zip(("training", "testing"), pre_nms_topk, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), post_nms_topk, strict=True)),
            nms_thresh=nms_threshold,
        )
        self.proposal_matcher = OverlapMatcher(
            foreground, background, allow_low_quality_matches=True
        )
        self.box_coder = DeltaCoder(weights=tuple(box_weights))
        self.fg_bg_sampler = BalancedSampler(anchors_per_image, positive_fraction)
        self.levels = tuple(levels)
        self.anchors_per_image = anchors_per_image
        self.min_size = min_size
        self.smooth_l1_beta = smooth_l1_beta
        self.objectness_weight = objectness_weight
        self.box_weight = box_weight

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, strides: dict[str, int]
    ) -> ProposalNetwork:
        """From ``MODEL.RPN``, ``MODEL.ANCHOR_GENERATOR`` and ``MODEL.PROPOSAL_GENERATOR``.

        Raises:
            ValueError: for convolutions of another width than the pyramid's.
        """
        node, generator = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
        if any(width not in (SAME_WIDTH, in_channels) for width in node.CONV_DIMS):
            raise ValueError(
                f"MODEL.RPN.CONV_DIMS must be {SAME_WIDTH} (as wide as the pyramid, "
                f"{in_channels}), got {list(node.CONV_DIMS)}"
            )
        anchors = PyramidAnchors(
            generator.SIZES,
            generator.ASPECT_RATIOS,
            [strides[level] for level in node.IN_FEATURES],
            generator.OFFSET,
        )
        per_cell = anchors.num_anchors_per_location()[0]
        return cls(
            levels=node.IN_FEATURES,
            anchors=anchors,
            head=ProposalHead(in_channels, per_cell, conv_depth=len(node.CONV_DIMS)),
            iou_thresholds=tuple(node.IOU_THRESHOLDS),
            anchors_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            pre_nms_topk=(node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            post_nms_topk=(node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
            nms_threshold=node.NMS_THRESH,
            min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            box_weights=node.BBOX_REG_WEIGHTS,
            smooth_l1_beta=node.SMOOTH_L1_BETA,
            objectness_weight=node.LOSS_WEIGHT,
            box_weight=node.LOSS_WEIGHT * node.BBOX_REG_LOSS_WEIGHT,
        )

    def propose(
        self,
        objectness: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Proposals of each image from the head's output: what ``forward`` does after the head.

        Args:
            objectness, deltas: per level [B, A, h, w] and [B, 4 A, h, w].
            sizes: (height, width) of each image before padding.

        Returns:
            Per image boxes [N, 4], clipped, best first.
        """
        counts = [level[0].numel() for level in objectness]
        anchors = [self.anchor_generator.of_image(objectness)] * len(sizes)
        logits, flat = concat_box_prediction_layers(list(objectness), list(deltas))
        boxes = self.box_coder.decode(flat.detach(), anchors).view(len(sizes), -1, 4)
        return self.filter_proposals(boxes, logits, sizes, counts)[0]

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: Sequence[tuple[int, int]],
        num_anchors_per_level: Sequence[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals of each image, best first.

        Args:
            proposals: [B, R, 4] decoded anchors.
            objectness: [B * R, 1] logits.
            image_shapes: (height, width) before padding.
            num_anchors_per_level: of one image; they sum to R.

        Returns:
            Per image boxes [N, 4], clipped, and logits [N].
        """
        count = len(image_shapes)
        logits = objectness.detach().view(count, -1)
        best = self._get_top_n_idx(logits, list(num_anchors_per_level))
        numbers = np.repeat(np.arange(len(num_anchors_per_level)), num_anchors_per_level)
        level_of_anchor = on_device(numbers, logits.device)
        chosen, usable = [], []
        for row, size, boxes, scores in zip(best, image_shapes, proposals, logits, strict=True):
            boxes, scores, level = boxes[row], scores[row], level_of_anchor[row]
            finite = boxes.isfinite().all(dim=1) & scores.isfinite()
            boxes = clip_boxes(boxes, size)
            usable.append(finite & ((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(dim=1))
            chosen.append((boxes, scores, level))
        kept_boxes, kept_logits = [], []
        for parts, known in zip(chosen, on_host(*usable), strict=True):
            rows = on_device(np.flatnonzero(known), logits.device)
            boxes, scores, level = (part[rows] for part in parts)
            kept = batched_nms(boxes, scores, level, self.nms_thresh)[: self.post_nms_top_n()]
            kept_boxes.append(boxes[kept])
            kept_logits.append(scores[kept])
        return kept_boxes, kept_logits

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Objectness and box loss: sums over sampled anchors over the number asked for.

        Args:
            objectness: [B * R, 1] logits.
            pred_bbox_deltas: [B * R, 4].
            labels: per image [R] float: 1 face, 0 background, -1 neither.
            regression_targets: per image [R, 4]; read where labels are 1.
        """
        positive, negative = (torch.cat(chosen) > 0 for chosen in self.fg_bg_sampler(labels))
        sampled = (positive | negative).nonzero().squeeze(1)
        positive = positive.nonzero().squeeze(1)
        normaliser = self.anchors_per_image * len(labels)
        objectness_loss = functional.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled], torch.cat(labels)[sampled], reduction="sum"
        )
        box_loss = functional.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        return (
            self.objectness_weight * objectness_loss / normaliser,
            self.box_weight * box_loss / normaliser,
        )

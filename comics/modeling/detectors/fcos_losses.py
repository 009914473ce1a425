"""FCOS: its three losses (Tian et al. 2019, arXiv:1904.01355, eq. 2), normalised as in AdelaiDet.

Shape letters: N locations of the batch, ordered level -> image -> row -> column; P of them have a
face; K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.fcos_targets import Assignment
from comics.ops.losses import IOU_LOSSES, centerness, distance_iou, distance_iou_loss, focal_loss

NORMALIZERS = ("fg", "moving_fg", "all")
QUALITIES = ("ctrness", "iou")
MOVING_START, MOVING_MOMENTUM = 100.0, 0.9  # AdelaiDet's
SMALLEST_WEIGHT = 1e-6  # of the sum of centre-ness, against division by zero


@dataclass(frozen=True)
class FCOSLossOutput:
    """Losses by name, and the weights of the positives, which mask losses share.

    Attributes:
        losses: "loss_fcos_cls", "loss_fcos_loc" and "loss_fcos_ctr" (or "loss_fcos_iou").
        centerness: [P] centre-ness targets.
        centerness_sum: scalar, their sum averaged over processes, at least 1e-6.
    """

    losses: dict[str, Tensor]
    centerness: Tensor
    centerness_sum: Tensor


class FCOSLoss(nn.Module):
    """Classification, box and quality losses.

    Args:
        num_classes: K.
        alpha, gamma: of the focal loss.
        normalizer: the classification loss is divided by the number of positives ("fg"), its
            moving average ("moving_fg") or the number of locations ("all").
        class_weight: factor on the classification loss.
        box_loss: "iou", "linear_iou" or "giou".
        quality: the quality branch learns "ctrness" or "iou".

    Raises:
        ValueError: for an unknown choice.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        normalizer: str = "fg",
        class_weight: float = 1.0,
        box_loss: str = "giou",
        quality: str = "ctrness",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("LOSS_NORMALIZER_CLS", normalizer, NORMALIZERS),
            ("LOC_LOSS_TYPE", box_loss, IOU_LOSSES),
            ("BOX_QUALITY", quality, QUALITIES),
        ):
            if value not in choices:
                raise ValueError(f"MODEL.FCOS.{name} must be one of {choices}, got {value!r}")
        self.num_classes = num_classes
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = normalizer
        self.class_weight = class_weight
        self.box_loss = box_loss
        self.quality = quality
        if normalizer == "moving_fg":  # a buffer, so that a resumed run is the same run
            self.register_buffer("moving_positives", torch.tensor(MOVING_START))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FCOSLoss:
        """From ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return cls(
            node.NUM_CLASSES,
            alpha=node.LOSS_ALPHA,
            gamma=node.LOSS_GAMMA,
            normalizer=node.LOSS_NORMALIZER_CLS,
            class_weight=node.LOSS_WEIGHT_CLS,
            box_loss=node.LOC_LOSS_TYPE,
            quality=node.BOX_QUALITY,
        )

    def forward(
        self, class_logits: Tensor, distances: Tensor, quality_logits: Tensor, target: Assignment
    ) -> FCOSLossOutput:
        """Losses of a batch.

        Without positives the box and quality losses are 0, with a gradient of 0 for every input.

        Args:
            class_logits: [N, K].
            distances: [N, 4] predictions, in strides.
            quality_logits: [N].
            target: targets of the same N locations.
        """
        positive = target.positive
        wanted = target.distances[positive]
        weights = centerness(wanted)
        totals = mean_over_processes(
            torch.stack((weights.new_tensor(float(len(positive))), weights.sum()))
        )
        count = totals[0].clamp(min=1.0)
        weight_sum = totals[1].clamp(min=SMALLEST_WEIGHT)
        iou, giou = distance_iou(distances[positive], wanted)
        box_losses = distance_iou_loss(iou, giou, self.box_loss)
        by_centerness = self.quality == "ctrness"
        quality_target = weights if by_centerness else iou.detach()
        class_sum = focal_loss(class_logits, target.labels, alpha=self.alpha, gamma=self.gamma)
        quality_sum = functional.binary_cross_entropy_with_logits(
            quality_logits[positive].float(), quality_target, reduction="sum"
        )
        losses = {
            "loss_fcos_cls": self.class_weight * class_sum / self._class_divisor(count, target),
            "loss_fcos_loc": (box_losses * weights).sum() / weight_sum
            if by_centerness
            else box_losses.sum() / count,
            "loss_fcos_ctr" if by_centerness else "loss_fcos_iou": quality_sum / count,
        }
        return FCOSLossOutput(losses, weights, weight_sum)

    def _class_divisor(self, count: Tensor, target: Assignment) -> Tensor:
        if self.normalizer == "all":
            return mean_over_processes(count.new_tensor(float(len(target.labels))))
        if self.normalizer == "moving_fg":
            self.moving_positives.lerp_(count, 1 - MOVING_MOMENTUM)
            return self.moving_positives.clone()
        return count


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes of a distributed run; itself in a single process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()

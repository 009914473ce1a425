"""YOLACT++ (Bolya et al. 2020, arXiv:1912.06218): YOLACT with deformable convolutions in the
backbone, more anchors, and a small network that says how good a mask is.

docs/methods.md#yolact-pp.

The first two are configuration (``MODEL.RESNETS.DEFORM_ON_PER_STAGE``, ``MODEL.ANCHOR_GENERATOR``).

Shape letters: N masks; K classes; D prototypes; h, w of the prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.anchor_targets import AnchorTargets
from comics.modeling.detectors.yolact.detector import YOLACT
from comics.modeling.detectors.yolact.heads import AnchorPredictions
from comics.registry import DETECTORS
from comics.structures import Faces


class MaskScorer(nn.Module):
    """The IoU of masks with their faces', from the masks alone (section 6.1).

    3x3 convolutions of stride 2 over the map of the whole image, the largest value of each class.

    Args:
        num_classes: K.
        widths: of the convolutions.
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = (8, 16, 32, 64, 128)) -> None:
        super().__init__()
        every = [1, *widths]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip(every, every[1:], strict=False)
        )
        self.iou = nn.Conv2d(every[-1], num_classes, 1)
        for part in (*self.convs, self.iou):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            nn.init.constant_(part.bias, 0.0)

    def forward(self, soft: Tensor, labels: Tensor) -> Tensor:
        """Predicted IoUs [N] >= 0, float32, of soft masks [N, h, w]; no gradient goes to these."""
        x = soft.detach().float()[:, None]
        for conv in self.convs:
            x = functional.relu(conv(x))
        found = functional.relu(self.iou(x)).float().amax(dim=(2, 3))
        return found.gather(1, labels[:, None])[:, 0]


@DETECTORS.register()
class YOLACTPlusPlus(YOLACT):
    """YOLACT whose scores are multiplied by the predicted IoU of the masks.

    Args:
        scorer: predicts it.
        scorer_weight: factor on its loss.
        smallest_mask: masks of faces with fewer cells teach the scorer nothing.
        yolact: arguments of ``YOLACT``.
    """

    selection_parts = ("scorer",)

    def __init__(
        self,
        *,
        scorer: MaskScorer,
        scorer_weight: float = 25.0,
        smallest_mask: int = 25,
        **yolact: Any,
    ) -> None:
        super().__init__(**yolact)
        self.scorer = scorer
        self.scorer_weight = scorer_weight
        self.smallest_mask = smallest_mask

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """As YOLACT's, and the keys of the scorer."""
        node = cfg.MODEL.YOLACT
        return super().parts_from_config(cfg) | {
            "scorer": MaskScorer(node.NUM_CLASSES, node.SCORER_CHANNELS),
            "scorer_weight": node.SCORER_WEIGHT,
            "smallest_mask": node.SCORER_SMALLEST_MASK,
        }

    def mask_losses(
        self,
        output: AnchorPredictions,
        prototypes: Tensor,
        assigned: AnchorTargets,
        targets: Sequence[Faces],
    ) -> dict[str, Tensor]:
        """As YOLACT's, and "loss_maskiou", smooth L1 of the predicted IoUs: the mean over masks."""
        losses = super().mask_losses(output, prototypes, assigned, targets)
        total = sum(parameter.sum() * 0 for parameter in self.scorer.parameters())
        soft, wanted, labels = self.scored_masks(output, prototypes, assigned, targets)
        if len(labels):
            predicted = self.scorer(soft, labels)
            iou = cell_iou(soft > 0.5, wanted)
            total = total + functional.smooth_l1_loss(predicted, iou)
        return losses | {"loss_maskiou": self.scorer_weight * torch.as_tensor(total)}

    @torch.no_grad()
    def scored_masks(
        self,
        output: AnchorPredictions,
        prototypes: Tensor,
        assigned: AnchorTargets,
        targets: Sequence[Faces],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the scorer learns from: soft masks [N, h, w] of positives, the faces' masks
        [N, h, w] bool, and their classes [N].
        """
        every = self.positive_masks(output, prototypes, assigned, targets)
        soft, wanted, labels = [], [], []
        for image, (coefficients, masks, boxes, face) in enumerate(every):
            large = masks.flatten(1).sum(dim=1) >= self.smallest_mask
            soft.append(self.soft_masks(coefficients[large], prototypes[image], boxes[large]))
            wanted.append(masks[large])
            labels.append(targets[image].labels[face[large]])
        return torch.cat(soft), torch.cat(wanted), torch.cat(labels)

    def rescored(self, scores: Tensor, soft: Tensor, labels: Tensor) -> Tensor:
        """Class probabilities [N] times the predicted IoUs, cut to 1."""
        return scores * self.scorer(soft, labels).clamp(max=1)


def cell_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """IoU [N] of masks [N, h, w] bool, float32; 0 where both are empty."""
    common = (found & wanted).flatten(1).sum(dim=1).float()
    union = (found | wanted).flatten(1).sum(dim=1).float()
    return common / union.clamp(min=1)

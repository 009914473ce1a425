"""Box and mask heads of Mask R-CNN (He et al. 2017, arXiv:1703.06870, section 3 and Fig. 4, right),
from torchvision's layers.

Details as in Detectron2: background is the last class, boxes are regressed per class, the box
loss is L1 over all sampled proposals.

Shape letters: P boxes of the batch, or N of one image; C channels; S side of pooled features;
R side of masks (2 S); K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from comics.config import CfgNode
from comics.modeling.detectors.deltas import DeltaCoder
from comics.modeling.detectors.mask_rcnn.sampling import SampledProposals
from comics.modeling.layers import NO_NORM, make_norm
from comics.ops.boxes import clip_boxes
from comics.ops.compiled import batched_nms
from comics.ops.transfers import on_device, on_host

# Standard deviations of the initial weights of the predictors (Detectron2's)
CLASS_STD, BOX_STD, MASK_STD = 0.01, 0.001, 0.001


@dataclass(frozen=True)
class BoxDetections:
    """Detections of one image, best first, in pixels of the network's input.

    Attributes:
        boxes: [N, 4], clipped to the image.
        scores: [N] in [0, 1].
        labels: [N] int64, 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class BoxHead(nn.Module):
    """Classes and refined boxes of pooled features.

    Args:
        in_channels, in_size: C and S.
        num_classes: K.
        conv_channels, linear_widths: widths of the 3x3 convolutions and of the fully connected
            layers after them; either may be empty.
        norm: of the convolutions.
        class_agnostic: one box for all classes instead of one per class.
        box_weights: factors on the deltas (dx, dy, dw, dh).
        smooth_l1_beta: where the box loss turns from square to linear; 0 is L1.
        box_weight: factor on the box loss.
        score_threshold: detections need a class probability above this.
        nms_threshold: IoU of the suppression, per class.
        detections_per_image: at most; negative: all.
    """

    def __init__(
        self,
        in_channels: int,
        in_size: int,
        *,
        num_classes: int,
        conv_channels: Sequence[int] = (),
        linear_widths: Sequence[int] = (1024, 1024),
        norm: str = "",
        class_agnostic: bool = False,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        smooth_l1_beta: float = 0.0,
        box_weight: float = 1.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
    ) -> None:
        super().__init__()
        self.layers = FastRCNNConvFCHead(
            (in_channels, in_size, in_size), conv_channels, linear_widths, _norm_layer(norm)
        )
        width = [in_channels * in_size**2]
        width += [channels * in_size**2 for channels in conv_channels]
        width += linear_widths
        self.class_logits = nn.Linear(width[-1], num_classes + 1)
        self.box_deltas = nn.Linear(width[-1], 4 * (1 if class_agnostic else num_classes))
        self.num_classes = num_classes
        self.coder = DeltaCoder(weights=tuple(box_weights))
        self.smooth_l1_beta = smooth_l1_beta
        self.box_weight = box_weight
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image
        self._initialise()

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> BoxHead:
        """From ``MODEL.ROI_BOX_HEAD``, ``MODEL.ROI_HEADS`` and ``TEST.DETECTIONS_PER_IMAGE``."""
        node, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS
        return cls(
            in_channels,
            node.POOLER_RESOLUTION,
            num_classes=heads.NUM_CLASSES,
            conv_channels=[node.CONV_DIM] * node.NUM_CONV,
            linear_widths=[node.FC_DIM] * node.NUM_FC,
            norm=node.NORM,
            class_agnostic=node.CLS_AGNOSTIC_BBOX_REG,
            box_weights=node.BBOX_REG_WEIGHTS,
            smooth_l1_beta=node.SMOOTH_L1_BETA,
            box_weight=node.BBOX_REG_LOSS_WEIGHT,
            score_threshold=heads.SCORE_THRESH_TEST,
            nms_threshold=heads.NMS_THRESH_TEST,
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[P, C, S, S] to class logits [P, K + 1], background last, and deltas [P, K, 4].

        Both float32; deltas are [P, 1, 4] where they are the same for all classes.
        """
        features = self.layers(pooled)
        logits = self.class_logits(features).float()
        deltas = self.box_deltas(features).float()
        return logits, deltas.view(deltas.shape[0], self.box_deltas.out_features // 4, 4)

    def loss(self, logits: Tensor, deltas: Tensor, sampled: SampledProposals) -> dict[str, Tensor]:
        """Cross-entropy and box loss, means over the P sampled proposals; 0 without any."""
        count = max(len(logits), 1)
        errors = functional.cross_entropy(logits, sampled.labels, reduction="sum")
        faces = on_device(sampled.faces(self.num_classes), logits.device)
        wanted = self.coder.encode_single(sampled.target_boxes[faces], sampled.boxes[faces])
        chosen = sampled.labels[faces] if deltas.shape[1] > 1 else torch.zeros_like(faces)
        box_errors = functional.smooth_l1_loss(
            deltas[faces, chosen], wanted, beta=self.smooth_l1_beta, reduction="sum"
        )
        return {
            "loss_cls": errors / count,
            "loss_box_reg": self.box_weight * box_errors / count,
        }

    def select(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[BoxDetections]:
        """Detections of each image after threshold and suppression.

        Args:
            logits, deltas: as ``forward`` returns them.
            proposals: per image [P_i, 4].
            sizes: (height, width) of each image before padding.
        """
        counts = [len(one) for one in proposals]
        boxes = self.coder.decode_single(deltas.flatten(1), torch.cat(list(proposals)))
        boxes = boxes.view_as(deltas)
        scores = logits.softmax(dim=1)
        finite = boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
        wanted = on_host(finite[:, None] & (scores[:, :-1] > self.score_threshold))[0]
        parts = zip(
            boxes.split(counts),
            scores.split(counts),
            np.split(wanted, np.cumsum(counts)[:-1]),
            sizes,
            strict=True,
        )
        return [self._select(*part) for part in parts]

    def _select(
        self, boxes: Tensor, scores: Tensor, wanted: np.ndarray, size: tuple[int, int]
    ) -> BoxDetections:
        """Of one image: boxes [N, K or 1, 4], scores [N, K + 1], and [N, K], which may stay."""
        row, label = (on_device(one, boxes.device) for one in wanted.nonzero())
        boxes = clip_boxes(boxes[row, label if boxes.shape[1] > 1 else 0], size)
        scores = scores[row, label]
        kept = batched_nms(boxes, scores, label, self.nms_threshold)
        if self.detections_per_image >= 0:
            kept = kept[: self.detections_per_image]
        return BoxDetections(boxes[kept], scores[kept], label[kept])

    def _initialise(self) -> None:
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        for layer, std in ((self.class_logits, CLASS_STD), (self.box_deltas, BOX_STD)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


class MaskHead(nn.Module):
    """Masks of pooled features: convolutions, a doubling of the resolution, a mask per class.

    Args:
        in_channels: C.
        num_classes: K.
        num_convs, channels, norm: of the 3x3 convolutions; ``channels`` also of the doubling.
        class_agnostic: one mask for all classes instead of one per class.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_convs: int = 4,
        channels: int = 256,
        norm: str = "",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convs = MaskRCNNHeads(in_channels, [channels] * num_convs, 1, _norm_layer(norm))
        self.predictor = MaskRCNNPredictor(
            channels if num_convs else in_channels, channels, 1 if class_agnostic else num_classes
        )
        for module in (self.predictor.conv5_mask, self.predictor.mask_fcn_logits):
            nn.init.zeros_(module.bias)
        nn.init.normal_(self.predictor.mask_fcn_logits.weight, std=MASK_STD)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> MaskHead:
        """From ``MODEL.ROI_MASK_HEAD`` and ``MODEL.ROI_HEADS.NUM_CLASSES``."""
        node = cfg.MODEL.ROI_MASK_HEAD
        return cls(
            in_channels,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            num_convs=node.NUM_CONV,
            channels=node.CONV_DIM,
            norm=node.NORM,
            class_agnostic=node.CLS_AGNOSTIC_MASK,
        )

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """[P, C, S, S] and the classes [P] wanted to mask logits [P, R, R], float32."""
        logits = self.predictor(self.convolved(pooled)).float()
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[torch.arange(labels.shape[0], device=labels.device), labels]

    def convolved(self, pooled: Tensor) -> Tensor:
        """What the doubling of the resolution sees: [P, C, S, S] to [P, C', S, S]."""
        return self.convs(pooled)


def mask_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean pixel-wise cross-entropy of [P, R, R] logits with bool masks; 0 without any."""
    errors = functional.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="sum")
    return errors / max(logits.numel(), 1)


def _norm_layer(name: str) -> Callable[[int], nn.Module] | None:
    """What torchvision's layers take for a normalisation; None gives convolutions a bias."""
    if name in NO_NORM:
        return None
    return cast(Callable[[int], nn.Module], partial(make_norm, name))

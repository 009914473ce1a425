"""How good a predicted mask is: its IoU with the face's mask, as a target and as a prediction.

Mask Scoring R-CNN (Huang et al. 2019, arXiv:1903.00241, section 3.3); docs/methods.md#ms-rcnn.

Shape letters: P boxes; C channels; S side of pooled features; R side of the predicted masks (2 S);
K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode

IOU_STD = 0.01  # of the initial weights of the predictor (public code)
LAST_STRIDE = 2  # of the last convolution


class MaskIoUHead(nn.Module):
    """The IoU of a mask with the face's, from the features that it was predicted from.

    Args:
        in_channels, in_size: C and S.
        num_classes: K.
        num_convs, channels: of the 3x3 convolutions, the last of which has stride 2.
        linear_width: of the two fully connected layers.
        loss_weight: factor on ``loss``.
    """

    def __init__(
        self,
        in_channels: int,
        in_size: int,
        *,
        num_classes: int,
        num_convs: int = 4,
        channels: int = 256,
        linear_width: int = 1024,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if num_convs < 1:
            raise ValueError(f"MODEL.ROI_MASKIOU_HEAD.NUM_CONV must be 1 or more, got {num_convs}")
        self.loss_weight = loss_weight
        widths = [in_channels + 1] + [channels] * num_convs
        self.convs = nn.ModuleList(
            nn.Conv2d(
                widths[index],
                widths[index + 1],
                3,
                stride=LAST_STRIDE if index == num_convs - 1 else 1,
                padding=1,
            )
            for index in range(num_convs)
        )
        side = -(-in_size // LAST_STRIDE)
        self.linear1 = nn.Linear(channels * side**2, linear_width)
        self.linear2 = nn.Linear(linear_width, linear_width)
        self.iou = nn.Linear(linear_width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):  # as Detectron2's heads: by their inputs
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.iou.weight, std=IOU_STD)
        nn.init.zeros_(self.iou.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> MaskIoUHead:
        """From ``MODEL.ROI_MASKIOU_HEAD``, ``MODEL.ROI_MASK_HEAD`` and ``MODEL.ROI_HEADS``."""
        node = cfg.MODEL.ROI_MASKIOU_HEAD
        return cls(
            in_channels,
            cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            num_convs=node.NUM_CONV,
            channels=node.CONV_DIM,
            linear_width=node.FC_DIM,
            loss_weight=node.LOSS_WEIGHT,
        )

    def forward(self, pooled: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Predicted IoUs [P] float32, not bounded.

        Args:
            pooled: [P, C, S, S] features of the boxes.
            logits: [P, R, R] of the masks; no gradient goes back to them.
            labels: [P] int64 classes of the masks.
        """
        mask = functional.max_pool2d(logits.detach().sigmoid()[:, None], 2)
        x = torch.cat((pooled, mask.to(pooled.dtype)), dim=1)
        for conv in self.convs:
            x = functional.relu(conv(x))
        x = functional.relu(self.linear1(x.flatten(1)))
        found = self.iou(functional.relu(self.linear2(x))).float()
        return found.gather(1, labels[:, None])[:, 0]

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``mask_iou_loss`` times the weight."""
        return self.loss_weight * mask_iou_loss(predicted, target)


def mask_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Half the mean square error of [P] IoUs, over those whose target is above 0; 0 without any.

    A mask that misses its face says nothing about how to tell good masks (public code).
    """
    chosen = (target > 0).float()
    errors = (predicted - target).square() * chosen
    return errors.sum() / (2 * chosen.sum().clamp(min=1))


def mask_iou_targets(logits: Tensor, wanted: Tensor, boxes: Tensor, face_areas: Tensor) -> Tensor:
    """IoU of predicted masks with the whole masks of their faces, [P] float32, without gradient.

    What a face's mask has outside the box counts: its pixels there are part of the union.

    Args:
        logits: [P, R, R]; a cell is set above 0.
        wanted: [P, R, R] bool, the face's mask within the box.
        boxes: [P, 4] pixels, which the squares fill.
        face_areas: [P] pixels of the whole face mask.
    """
    found = logits.detach() > 0
    common = (found & wanted).flatten(1).sum(dim=1).float()
    area = found.flatten(1).sum(dim=1).float()
    inside = wanted.flatten(1).sum(dim=1).float()
    cells = logits.shape[-2] * logits.shape[-1]
    cell = (boxes[:, 2:] - boxes[:, :2]).float().prod(dim=1) / cells
    # A box of few pixels: the cells within it may round to more than the whole mask
    whole = torch.maximum(face_areas.float() / cell, inside)
    return torch.where(common > 0, common / (area + whole - common), 0.0)

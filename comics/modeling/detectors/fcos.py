"""FCOS (Tian et al. 2019, arXiv:1904.01355): dense boxes without anchors; its head is shared by
every one-stage mask detector here.

Details (centre sampling, quality on the box branch, normalisers) as in AdelaiDet, whose
``MODEL.FCOS`` keys configure it.

Shape letters: B images; C channels; K classes; h, w of a level; N locations of the batch, ordered
level -> image -> row -> column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.backbone import build_backbone
from comics.modeling.detectors.base import Detector, ImageBatch, LevelProposals, TrainingOutput
from comics.modeling.detectors.fcos_losses import FCOSLoss, FCOSLossOutput
from comics.modeling.detectors.fcos_selection import Detections, Selector, boxes_at_cells
from comics.modeling.detectors.fcos_targets import Assignment, TargetAssigner
from comics.modeling.layers import make_norm
from comics.ops.boxes import clip_boxes, nonempty, scale_boxes
from comics.registry import DETECTORS
from comics.structures import Faces

PREDICTION_STD = 0.01  # of the initial weights of towers and predictors
PER_LEVEL_NORMS = ("BN", "SyncBN")  # their statistics differ between levels


@dataclass(frozen=True)
class HeadOutput:
    """Predictions per level, finest first.

    Attributes:
        class_logits: [B, K, h, w] each.
        distances: [B, 4, h, w] each, left, top, right, bottom in strides, >= 0.
        quality_logits: [B, 1, h, w] each.
        box_tower: [B, C, h, w] each, the input of the box predictor.
    """

    class_logits: list[Tensor]
    distances: list[Tensor]
    quality_logits: list[Tensor]
    box_tower: list[Tensor]


class TowerBlock(nn.Module):
    """3x3 convolution with bias, normalisation, ReLU; batch norms are one per level."""

    def __init__(self, channels: int, *, norm: str, num_levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        if norm in PER_LEVEL_NORMS:
            self.norm = nn.ModuleList(make_norm(norm, channels) for _ in range(num_levels))
        else:
            self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor, level: int) -> Tensor:
        """[B, C, h, w] of that level to the same shape."""
        x = self.conv(x)
        norm = self.norm[level] if isinstance(self.norm, nn.ModuleList) else self.norm
        return functional.relu_(x if norm is None else norm(x))


class FCOSHead(nn.Module):
    """Towers and predictors, the same for every level.

    Args:
        in_channels: C of the pyramid.
        num_classes: K.
        num_levels: of the pyramid.
        num_class_convs, num_box_convs, num_share_convs: depths of the towers; the shared runs
            before the other two.
        norm: of the towers, "GN", "BN", "SyncBN" or "none".
        use_scale: a learnt factor per level on the box predictor.
        prior: initial probability of a class at a location, in (0, 1).

    Raises:
        ValueError: for an unknown norm or a prior outside (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_levels: int,
        num_class_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_scale: bool = True,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"MODEL.FCOS.PRIOR_PROB must lie in (0, 1), got {prior}")

        def tower(depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                TowerBlock(in_channels, norm=norm, num_levels=num_levels) for _ in range(depth)
            )

        self.share_tower = tower(num_share_convs)
        self.class_tower = tower(num_class_convs)
        self.box_tower = tower(num_box_convs)
        self.class_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(1)) for _ in range(num_levels if use_scale else 0)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=PREDICTION_STD)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> FCOSHead:
        """From ``MODEL.FCOS``."""
        node = cfg.MODEL.FCOS
        return cls(
            in_channels,
            num_classes=node.NUM_CLASSES,
            num_levels=len(node.IN_FEATURES),
            num_class_convs=node.NUM_CLS_CONVS,
            num_box_convs=node.NUM_BOX_CONVS,
            num_share_convs=node.NUM_SHARE_CONVS,
            norm=node.NORM,
            use_scale=node.USE_SCALE,
            prior=node.PRIOR_PROB,
        )

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Predictions for the levels' [B, C, h, w] features, finest first."""
        output = HeadOutput([], [], [], [])
        for level, feature in enumerate(features):
            shared = _run_tower(self.share_tower, feature, level)
            box_tower = _run_tower(self.box_tower, shared, level)
            raw = self.box_distances(box_tower).float()
            if len(self.scales):
                raw = raw * self.scales[level]
            class_tower = _run_tower(self.class_tower, shared, level)
            output.class_logits.append(self.class_logits(class_tower).float())
            output.distances.append(functional.relu(raw))
            output.quality_logits.append(self.quality(box_tower).float())
            output.box_tower.append(box_tower)
        return output


@dataclass(frozen=True)
class DenseTraining:
    """What the dense part of a training step yields, for detectors that build on it."""

    head: HeadOutput
    targets: Assignment
    loss: FCOSLossOutput


@DETECTORS.register()
class FCOS(Detector):
    """Boxes, classes and scores; no masks.

    Args:
        backbone: a pyramid with ``strides`` and ``size_divisibility``.
        head: the predictors.
        levels: names of the pyramid's levels that the head sees, finest first.
        assigner, loss, selector: targets, losses, selection; each for the same levels.
        pixel_mean, pixel_std, pixel_format: see ``Detector``.

    Raises:
        ValueError: if the levels or their strides are not those of the backbone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: FCOSHead,
        *,
        levels: Sequence[str],
        assigner: TargetAssigner,
        loss: FCOSLoss,
        selector: Selector,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pixel_format: str = "RGB",
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std, pixel_format, backbone.size_divisibility)
        found = [backbone.strides.get(level) for level in levels]
        if tuple(found) != tuple(assigner.strides):
            raise ValueError(
                f"MODEL.FCOS: levels {list(levels)} have strides {found} in the backbone, which "
                f"offers {backbone.strides}; FPN_STRIDES are {list(assigner.strides)}"
            )
        self.head = head
        self.levels = tuple(levels)
        self.assigner = assigner
        self.loss = loss
        self.selector = selector

    @classmethod
    def parts_from_config(cls, cfg: CfgNode) -> dict:
        """Constructor arguments that every detector over this head shares."""
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": FCOSHead.from_config(cfg, backbone.out_channels),
            "levels": cfg.MODEL.FCOS.IN_FEATURES,
            "assigner": TargetAssigner.from_config(cfg),
            "loss": FCOSLoss.from_config(cfg),
            "selector": Selector.from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "pixel_format": cfg.INPUT.FORMAT,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FCOS:
        """From ``MODEL.BACKBONE``, ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.FCOS``."""
        return cls(**cls.parts_from_config(cfg))

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """The three FCOS losses and the proposals assigned to faces."""
        dense = self.dense_training(features, targets)
        return TrainingOutput(dense.loss.losses, features, self.proposals(dense))

    def infer(
        self,
        features: dict[str, Tensor],
        batch: ImageBatch,
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Faces]:
        """Boxes of each image, clipped to its output size; no masks."""
        _, detections = self.dense_inference(features)
        return [
            to_output(found, size, output_size)[0]
            for found, size, output_size in zip(detections, batch.sizes, output_sizes, strict=True)
        ]

    def dense_training(
        self, features: dict[str, Tensor], targets: Sequence[Faces]
    ) -> DenseTraining:
        """Head outputs, targets and losses of the FCOS part."""
        head = self.head([features[level] for level in self.levels])
        assignment = self.assigner.assign(
            [tuple(logits.shape[-2:]) for logits in head.class_logits],
            [faces.boxes for faces in targets],
            [faces.labels for faces in targets],
        )
        loss = self.loss(
            _level_major(head.class_logits),
            _level_major(head.distances),
            _level_major(head.quality_logits).squeeze(1),
            assignment,
        )
        return DenseTraining(head, assignment, loss)

    def dense_inference(self, features: dict[str, Tensor]) -> tuple[HeadOutput, list[Detections]]:
        """Head outputs, and the detections of each image in pixels of the network's input."""
        head = self.head([features[level] for level in self.levels])
        return head, self.selector.select(head.class_logits, head.distances, head.quality_logits)

    def proposals(self, dense: DenseTraining) -> dict[str, LevelProposals]:
        """Every location that answers for a face, with the box predicted there."""
        targets, positive = dense.targets, dense.targets.positive
        level_of, image = targets.level[positive], targets.image[positive]
        face = targets.face[positive] - targets.first_face[image]
        found = {}
        for index, (name, stride) in enumerate(
            zip(self.levels, self.assigner.strides, strict=True)
        ):
            here = (level_of == index).nonzero().squeeze(1)
            cell = targets.cell[positive[here]]
            maps = dense.head.distances[index].detach()
            distances = maps.flatten(2)[image[here], :, cell]
            boxes = boxes_at_cells(distances, cell, maps.shape[-2:], stride)
            found[name] = LevelProposals(image[here], face[here], boxes, cell)
        return found


def to_output(
    found: Detections, size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[Faces, Tensor]:
    """Scale boxes to the output, clip them, drop those without area.

    Args:
        found: detections in pixels of the network's input.
        size: (height, width) of the network's input before padding.
        output_size: (height, width) asked for.

    Returns:
        The faces, without masks, and [N] bool telling which detections they are.
    """
    scale_y, scale_x = output_size[0] / size[0], output_size[1] / size[1]
    boxes = clip_boxes(scale_boxes(found.boxes, scale_x, scale_y), output_size)
    keep = nonempty(boxes)
    faces = Faces(
        boxes=boxes[keep],
        image_size=(output_size[0], output_size[1]),
        labels=found.labels[keep],
        scores=found.scores[keep],
    )
    return faces, keep


def _run_tower(tower: nn.ModuleList, x: Tensor, level: int) -> Tensor:
    for block in tower:
        x = block(x, level)
    return x


def _level_major(maps: Sequence[Tensor]) -> Tensor:
    """Per level [B, C, h, w] to [N, C]."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])

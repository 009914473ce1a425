"""What SOLO and SOLOv2 share: faces belong to the cells of grids, boxes are those of masks.

Shape letters: B images; C channels; K classes; S side of a level's grid; P pairs of a cell and a
face; h, w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.modeling.detectors.base import Detector, LevelProposals
from comics.modeling.detectors.candidates import Candidates, GridMasks
from comics.modeling.detectors.solov2.selection import MaskDetections, MaskSelector
from comics.modeling.detectors.solov2.targets import MASK_RESIZERS, CellAssigner, LevelTargets
from comics.ops.losses import focal_loss
from comics.ops.mask_parts import part_boxes

DICE_SMOOTHING = 0.002  # AdelaiDet's 0.001 on either squared sum: an empty target stays finite


@dataclass(frozen=True)
class SOLOLoss:
    """Settings of the losses: focal loss of the classes, Dice loss of the masks (section 3.5).

    Attributes:
        alpha, gamma: of the focal loss.
        class_weight, mask_weight: factors on the two losses.
        mask_targets: how masks are brought to the mask map, see ``shrink_masks``.

    Raises:
        ValueError: for an unknown ``mask_targets``.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    class_weight: float = 1.0
    mask_weight: float = 3.0
    mask_targets: str = "aligned"

    def __post_init__(self) -> None:
        if self.mask_targets not in MASK_RESIZERS:
            raise ValueError(
                f"MODEL.SOLOV2.MASK_TARGETS must be one of {MASK_RESIZERS}, got "
                f"{self.mask_targets!r}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SOLOLoss:
        """From ``MODEL.SOLOV2``."""
        node = cfg.MODEL.SOLOV2
        return cls(
            alpha=node.LOSS.FOCAL_ALPHA,
            gamma=node.LOSS.FOCAL_GAMMA,
            class_weight=node.LOSS.FOCAL_WEIGHT,
            mask_weight=node.LOSS.DICE_WEIGHT,
            mask_targets=node.MASK_TARGETS,
        )


class GridDetector(Detector):
    """A detector by grids; a constructor sets the attributes.

    Attributes:
        levels: names of the levels that have a grid, finest first.
        finest: name of the level whose cells selected masks have, which divides the padded image.
        mask_stride: its stride.
        assigner, loss, selector: targets, losses, selection; each for ``levels``.
        mask_on: False leaves the masks out of inference; boxes are those of the masks either way.
    """

    levels: tuple[str, ...]
    finest: str
    mask_stride: int
    assigner: CellAssigner
    loss: SOLOLoss
    selector: MaskSelector
    mask_on: bool

    def class_loss(
        self, class_logits: Sequence[Tensor], assigned: Sequence[LevelTargets]
    ) -> Tensor:
        """Focal loss over all cells, divided by the number of positive cells + 1."""
        classes = class_logits[0].shape[1]
        logits = torch.cat(
            [level.flatten(2).transpose(1, 2).flatten(0, 1) for level in class_logits]
        )
        labels = torch.cat([level.labels.flatten() for level in assigned])
        total = focal_loss(logits, labels, alpha=self.loss.alpha, gamma=self.loss.gamma)
        return self.loss.class_weight * total / ((labels != classes).sum() + 1)

    def grid_proposals(
        self, features: dict[str, Tensor], assigned: Sequence[LevelTargets], boxes: Tensor
    ) -> dict[str, LevelProposals]:
        """Every pair of a cell and a face, as the cell of its level at the grid cell's centre.

        Args:
            features: the pyramid.
            assigned: per level.
            boxes: [P, 4] of the masks predicted there, in the order of ``assigned``.
        """
        found = {}
        parts = boxes.split([len(pairs.cell) for pairs in assigned])
        for level, pairs, part in zip(self.levels, assigned, parts, strict=True):
            cells = self.level_cells(features, level, pairs.cell)
            found[level] = LevelProposals(pairs.image, pairs.face, part, cells)
        return found

    def level_cells(self, features: dict[str, Tensor], level: str, cell: Tensor) -> Tensor:
        """The cells of a level's map at the centres of cells [P] of its grid: [P] int64."""
        height, width = features[level].shape[-2:]
        finest = features[self.finest].shape[-2:]
        ratio = self.mask_stride / self.backbone.strides[level]
        span = (finest[0] * ratio, finest[1] * ratio)  # of the padded image; the last may be cut
        grid = self.assigner.grids[self.levels.index(level)]
        return pyramid_cells(cell, grid, (height, width), span)

    def to_candidates(self, found: MaskDetections, size: tuple[int, int]) -> Candidates:
        """Candidates whose masks are not empty in the network's input; boxes are the masks'."""
        masks = GridMasks(
            found.masks,
            self.mask_stride,
            aligned=False,
            threshold=self.selector.mask_threshold,
            shown=self.mask_on,
            give_boxes=True,
        )
        boxes = part_boxes(masks.parts(size, size), found.masks.device)
        return Candidates.of(boxes, found.scores, found.labels, size, masks)


def pyramid_cells(
    cell: Tensor, grid: int, map_size: tuple[int, int], span: tuple[float, float]
) -> Tensor:
    """The cells of a level's map at the centres of grid cells.

    Args:
        cell: [P] int64, row * S + column in the grid.
        grid: S; the grid spans the padded image.
        map_size: (h, w) of the level.
        span: height and width of the padded image in cells of the level.

    Returns:
        [P] int64, row * w + column.
    """
    row = ((cell // grid + 0.5) / grid * span[0]).long().clamp(max=map_size[0] - 1)
    column = ((cell % grid + 0.5) / grid * span[1]).long().clamp(max=map_size[1] - 1)
    return row * map_size[1] + column

"""BoxInst (High-Performance Instance Segmentation with Box Annotations, Tian et al. 2020,
arXiv:2012.02310): losses that train CondInst's masks from boxes alone.

A mask's projections onto the axes must be those of its box (eq. 3), and neighbouring pixels of
like colour must agree (eq. 5 to 8). Details as in AdelaiDet, whose ``MODEL.BOXINST`` keys configure
them.

Shape letters: B images; F faces of an image; P positive locations; H, W padded image; h, w masks'
map; o its stride; E neighbours of a cell, size ** 2 - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.base import ImageBatch
from comics.ops.colour import rgb_to_lab
from comics.ops.losses import dice_loss

DICE_SMOOTHING = 1e-5  # AdelaiDet's
COLOUR_SCALE = 2.0  # theta of eq. 5: distance in Lab at which the similarity is 1 / e


@dataclass(frozen=True)
class BoxSupervision:
    """Mask losses from boxes.

    Attributes:
        size: side of the neighbourhood, odd, cells.
        dilation: cells between neighbours.
        warmup: training steps over which the pairwise loss grows to its full weight.
        colour_threshold: neighbours at least this similar, in (0, 1], must agree.
        bottom_rows: rows at the bottom of each image whose colours are not trusted, in pixels of
            the network's input (AdelaiDet counts them in the stored image).
    """

    size: int = 3
    dilation: int = 2
    warmup: int = 10000
    colour_threshold: float = 0.3
    bottom_rows: int = 10

    def __post_init__(self) -> None:
        if self.size % 2 == 0 or self.size < 3:
            raise ValueError(f"MODEL.BOXINST.PAIRWISE.SIZE must be odd and >= 3, got {self.size}")
        if self.dilation < 1 or self.warmup < 1:
            raise ValueError(
                "MODEL.BOXINST.PAIRWISE.DILATION and WARMUP_ITERS must be >= 1, got "
                f"{self.dilation} and {self.warmup}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BoxSupervision | None:
        """From ``MODEL.BOXINST``; None unless it is enabled."""
        node = cfg.MODEL.BOXINST
        if not node.ENABLED:
            return None
        return cls(
            size=node.PAIRWISE.SIZE,
            dilation=node.PAIRWISE.DILATION,
            warmup=node.PAIRWISE.WARMUP_ITERS,
            colour_threshold=node.PAIRWISE.COLOR_THRESH,
            bottom_rows=node.BOTTOM_PIXELS_REMOVED,
        )

    def losses(
        self, logits: Tensor, boxes: Tensor, similar: Tensor, iterations: Tensor
    ) -> dict[str, Tensor]:
        """ "loss_prj" and "loss_pairwise", 0 without faces.

        Args:
            logits: [P, h, w] of the masks.
            boxes: [P, h, w] bool, the cells within each face's box.
            similar: [P, E, h, w] bool, neighbours of like colour, of each face's image.
            iterations: scalar or [1], training steps including this one.
        """
        errors = pairwise_disagreement(logits, self.size, self.dilation)
        weights = (similar & boxes[:, None]).float()
        pairwise = (errors * weights).sum() / weights.sum().clamp(min=1)
        warm = (iterations.detach() / self.warmup).clamp(max=1).squeeze()
        projection = projection_loss(logits.sigmoid(), boxes).sum() / max(len(logits), 1)
        return {"loss_prj": projection, "loss_pairwise": pairwise * warm}

    @torch.no_grad()
    def similar_neighbours(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], stride: int
    ) -> Tensor:
        """Which neighbours of each cell have its colour: [B, E, H / o, W / o] bool.

        Args:
            images: [B, 3, H, W] RGB, 0-255; what lies beyond an image's own size is not looked at.
            sizes: (height, width) of each image before padding.
            stride: o, pixels.
        """
        valid = torch.zeros_like(images[:, 0], dtype=torch.bool)
        trusted = torch.zeros_like(valid)
        for index, (height, width) in enumerate(sizes):
            valid[index, :height, :width] = True
            trusted[index, : max(height - self.bottom_rows, 0), :width] = True
        # The images went through a normalisation; their values were whole numbers before
        pixels = images.float().round() * valid[:, None]
        means = functional.avg_pool2d(pixels, stride).floor()
        start = stride // 2
        similarity = colour_similarity(
            rgb_to_lab(means), trusted[:, start::stride, start::stride], self.size, self.dilation
        )
        return similarity >= self.colour_threshold


def rgb_pixels(batch: ImageBatch, mean: Tensor, std: Tensor, pixel_format: str) -> Tensor:
    """The images of a batch as they were before normalisation: [B, 3, H, W] RGB, 0-255."""
    pixels = batch.tensor.float() * std + mean
    return pixels.flip(1) if pixel_format == "BGR" else pixels


def box_bitmaps(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Pixels of [F, 4] boxes as masks [F, H, W] bool, from int(x0) to int(x1 + 1), exclusive."""
    height, width = image_size
    first = boxes[:, :2].floor()
    last = (boxes[:, 2:] + 1).floor()
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    columns = (x >= first[:, :1]) & (x < last[:, :1])
    rows = (y >= first[:, 1:]) & (y < last[:, 1:])
    return rows[:, :, None] & columns[:, None]


def projection_loss(soft: Tensor, boxes: Tensor) -> Tensor:
    """Dice losses of the projections onto both axes (eq. 3): [P] from two [P, h, w]."""
    across = dice_loss(soft.amax(dim=1), boxes.any(dim=1), smoothing=DICE_SMOOTHING)
    down = dice_loss(soft.amax(dim=2), boxes.any(dim=2), smoothing=DICE_SMOOTHING)
    return across + down


def pairwise_disagreement(logits: Tensor, size: int, dilation: int) -> Tensor:
    """-log P(a cell and its neighbour are both face, or both are not) (eq. 6, 8).

    Neighbours outside the map agree with certainty.

    Args:
        logits: [P, h, w].
        size, dilation: of the neighbourhood.

    Returns:
        [P, E, h, w], >= 0.
    """
    logits = logits.float()
    inside, outside = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    both = torch.stack((inside, outside), dim=1)
    neighbours = _neighbours(both, size, dilation)  # log 1 = 0 outside the map
    return -torch.logaddexp(inside[:, None] + neighbours[:, 0], outside[:, None] + neighbours[:, 1])


def colour_similarity(lab: Tensor, trusted: Tensor, size: int, dilation: int) -> Tensor:
    """exp(-|difference in Lab| / 2) of each cell and its neighbours (eq. 5).

    0 where the neighbour is not trusted, or outside the map.

    Args:
        lab: [B, 3, h, w].
        trusted: [B, h, w] bool.
        size, dilation: of the neighbourhood.

    Returns:
        [B, E, h, w] in [0, 1].
    """
    difference = lab[:, :, None] - _neighbours(lab, size, dilation)
    weights = _neighbours(trusted[:, None].float(), size, dilation).squeeze(1)
    return torch.exp(-difference.norm(dim=1) / COLOUR_SCALE) * weights


def _neighbours(maps: Tensor, size: int, dilation: int) -> Tensor:
    """[N, C, h, w] to [N, C, E, h, w], row by row without the middle; 0 outside the map."""
    batch, channels, height, width = maps.shape
    unfolded = functional.unfold(
        maps, size, dilation=dilation, padding=dilation * (size - 1) // 2
    ).view(batch, channels, size**2, height, width)
    middle = size**2 // 2
    return torch.cat((unfolded[:, :, :middle], unfolded[:, :, middle + 1 :]), dim=2)

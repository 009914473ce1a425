"""SOLOv2: which grid cells answer for which face, and the masks they are to give.

SOLO (Wang et al. 2019, arXiv:1912.04488, section 3.3.1): a cell is positive if it lies in the
centre region of a face whose size suits the level. Details as in AdelaiDet.

Shape letters: B images; F faces of one image or of the batch; S side of a level's grid; P pairs of
a cell and a face; H, W image; h, w mask map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comics.config import CfgNode
from comics.ops.masks import centre_of_mass
from comics.structures import Faces

REACH = 1  # cells around the centre's cell that may be positive
MASK_RESIZERS = ("aligned", "opencv")
MAJORITY = 2  # of the four pixels around a cell's centre: their mean is >= 0.5


@dataclass(frozen=True)
class LevelTargets:
    """What the cells of one level are to predict.

    A cell that two faces claim is in two pairs; its label is that of the later face.

    Attributes:
        labels: [B, S * S] int64, 0..K-1 a class, K background.
        image: [P] int64.
        cell: [P] int64, row * S + column.
        face: [P] int64, position of the face among its image's targets.
    """

    labels: Tensor
    image: Tensor
    cell: Tensor
    face: Tensor


@dataclass(frozen=True)
class CellAssigner:
    """Which cells answer for a face.

    Attributes:
        grids: S of each level.
        scale_ranges: (lowest, highest) sqrt of the box area of each level, pixels, inclusive; a
            face may suit several levels, or none.
        sigma: side of the centre region as a share of the box side.
        num_classes: K, the label of the background.
    """

    grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    sigma: float
    num_classes: int

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str = "SOLOV2") -> CellAssigner:
        """From ``MODEL.SOLOV2``, or a node of that name with the same keys."""
        node = cfg.MODEL[name]
        return cls(
            grids=tuple(node.NUM_GRIDS),
            scale_ranges=tuple((low, high) for low, high in node.FPN_SCALE_RANGES),
            sigma=node.SIGMA,
            num_classes=node.NUM_CLASSES,
        )

    @torch.no_grad()
    def assign(self, targets: Sequence[Faces], padded_size: tuple[int, int]) -> list[LevelTargets]:
        """Targets of each level.

        Faces whose mask is empty get no cell: there is no mask to teach (decision).

        Args:
            targets: ground truth of each image, with masks where there are faces.
            padded_size: (height, width) of the padded images, which the grids span.
        """
        boxes = torch.cat([faces.boxes for faces in targets]).double()
        device = boxes.device
        centres = [centre_of_mass(f.known_masks) for f in targets if len(f)]
        centre = torch.cat(centres) if centres else boxes.new_zeros(0, 2)
        sides = boxes[:, 2:] - boxes[:, :2]
        size = sides.prod(dim=1).sqrt()
        extent = boxes.new_tensor([padded_size[1], padded_size[0]])
        image = torch.cat([torch.full_like(f.labels, i) for i, f in enumerate(targets)])
        local = torch.cat([torch.arange(len(f), device=device) for f in targets])
        labels = torch.cat([faces.labels for faces in targets])
        found = []
        for grid, (low, high) in zip(self.grids, self.scale_ranges, strict=True):
            suits = (size >= low) & (size <= high) & ~centre.isnan().any(dim=1)
            reach = self.sigma * sides / 2
            face, cell = _cells_around(centre, reach, extent, grid, suits)
            found.append(
                LevelTargets(
                    self._label_map(len(targets), grid, image[face], cell, labels, face),
                    image[face],
                    cell,
                    local[face],
                )
            )
        return found

    def _label_map(
        self, count: int, grid: int, image: Tensor, cell: Tensor, labels: Tensor, face: Tensor
    ) -> Tensor:
        """[B, S * S]: the label of the last face that claims the cell, else K."""
        cells = grid * grid
        last = face.new_full((count * cells,), -1)
        last.scatter_reduce_(0, image * cells + cell, face, "amax")
        table = torch.cat((labels, labels.new_tensor([self.num_classes])))
        return table[last].view(count, cells)  # -1 reads the background


def _cells_around(
    centre: Tensor, reach: Tensor, extent: Tensor, grid: int, suits: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairs (face [P], cell [P]): cells under the centre region, at most one from the middle.

    Args:
        centre: [F, 2] (x, y), pixels; NaN where ``suits`` is False at most.
        reach: [F, 2] half width and height of the centre region, pixels.
        extent: [2] width and height that the grid spans, pixels.
        grid: S.
        suits: [F] bool, faces that the level takes.
    """

    def cell_of(point: Tensor) -> Tensor:
        return (point * grid / extent).floor()

    steps = torch.arange(-REACH, REACH + 1, device=centre.device)
    position = cell_of(centre)[..., None] + steps  # [F, 2, 3]
    lowest = cell_of(centre - reach).clamp(min=0)[..., None]
    highest = cell_of(centre + reach).clamp(max=grid - 1)[..., None]
    inside = (position >= lowest) & (position <= highest)
    chosen = inside[:, 1, :, None] & inside[:, 0, None, :] & suits[:, None, None]
    face, row, column = chosen.nonzero(as_tuple=True)
    return face, (position[face, 1, row] * grid + position[face, 0, column]).long()


def shrink_masks(masks: Tensor, stride: int, size: tuple[int, int], how: str) -> Tensor:
    """Masks of an image on the cells of the mask map.

    "aligned": a cell is set if two or more of the four pixels around its centre are, which is
    bilinear interpolation there; cell (i, j) stays at pixel (i + 0.5) * stride whatever the
    image's size. "opencv": AdelaiDet's rule, OpenCV's 8-bit resize to round(side / stride), which
    for sides that are no multiple of the stride shifts the mask by a fraction of a cell.

    Args:
        masks: [F, H, W] bool.
        stride: pixels per cell, even.
        size: (h, w) of the mask map, at least H / stride and W / stride.
        how: "aligned" or "opencv".

    Returns:
        [F, h, w] bool; zero beyond the image.
    """
    if how == "opencv":
        return _shrink_with_opencv(masks, stride, size)
    height, width = size[0] * stride, size[1] * stride
    padded = functional.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
    blocks = padded.view(len(masks), size[0], stride, size[1], stride)
    middle = slice(stride // 2 - 1, stride // 2 + 1)
    return blocks[:, :, middle, :, middle].sum(dim=(2, 4)) >= MAJORITY


def _shrink_with_opencv(masks: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    height, width = (int(side / stride + 0.5) for side in masks.shape[1:])
    shrunk = np.zeros((len(masks), *size), dtype=np.uint8)
    for row, mask in zip(shrunk, masks.cpu().numpy().astype(np.uint8), strict=True):
        row[:height, :width] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(shrunk).to(masks.device).bool()

"""Anchors on the levels of a pyramid, as Detectron2 places them: neither rounded nor spaced by the
image's size, which torchvision's are.

Shape letters: A anchors per cell; h, w of a level; R anchors of an image, ordered
level -> row -> column -> anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList


class PyramidAnchors(AnchorGenerator):
    """Anchors centred at ``(column + offset) * stride``, of exact size.

    Args:
        sizes: per level the square roots of the anchors' areas, pixels; one entry serves all.
        aspect_ratios: per level heights over widths; one entry serves all.
        strides: per level, pixels per cell.
        offset: of the first centre from the image's corner, in strides, in [0, 1).

    Raises:
        ValueError: if sizes or ratios fit neither one nor all levels, or levels differ in their
            number of anchors, or for an offset outside [0, 1).
    """

    cell_anchors: list[Tensor]

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.0,
    ) -> None:
        if not 0 <= offset < 1:
            raise ValueError(f"MODEL.ANCHOR_GENERATOR.OFFSET must lie in [0, 1), got {offset}")
        super().__init__(
            _per_level("SIZES", sizes, len(strides)),
            _per_level("ASPECT_RATIOS", aspect_ratios, len(strides)),
        )
        if len(set(self.num_anchors_per_location())) != 1:
            raise ValueError(
                "MODEL.ANCHOR_GENERATOR must give every level as many anchors per cell, got "
                f"{self.num_anchors_per_location()}"
            )
        self.strides = tuple(strides)
        self.cell_anchors = [
            anchors + offset * stride
            for anchors, stride in zip(self.cell_anchors, strides, strict=True)
        ]

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """[A, 4] boxes around (0, 0): for each scale s and ratio r, w * h = s^2 and h / w = r."""
        anchors = []
        for scale in scales:
            for ratio in aspect_ratios:
                width = math.sqrt(scale**2 / ratio)
                height = ratio * width
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors, dtype=dtype, device=device)

    def forward(self, image_list: ImageList, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """Anchors [R, 4] of each image, float32; the same tensor for all."""
        return [self.of_image(feature_maps)] * len(image_list.image_sizes)

    def of_image(self, maps: Sequence[Tensor]) -> Tensor:
        """Anchors [R, 4] float32 of an image whose levels have the sizes of [..., h, w] maps."""
        grids = [tuple(one.shape[-2:]) for one in maps]
        self.set_cell_anchors(torch.float32, maps[0].device)
        levels = self.grid_anchors(grids, [(stride, stride) for stride in self.strides])
        return torch.cat(levels)


def _per_level(
    key: str, values: Sequence[Sequence[float]], levels: int
) -> tuple[tuple[float, ...], ...]:
    """One tuple a level."""
    if len(values) not in (1, levels):
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR.{key} needs 1 entry or one per level ({levels}), got "
            f"{len(values)}"
        )
    return tuple(tuple(entry) for entry in values) * (levels // len(values))

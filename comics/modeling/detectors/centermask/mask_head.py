"""CenterMask's mask branch (Lee, Park 2020, arXiv:1911.06667, section 3.2 and 3.3): features from
the level that fits a box's share of the image, and attention to where in the box the face is.

Shape letters: P boxes of the batch; C channels; S side of pooled features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from comics.modeling.detectors.cells import image_of_each
from comics.modeling.detectors.mask_rcnn import MaskHead
from comics.modeling.detectors.pooling import PyramidPooler, pool_by_level
from comics.ops.boxes import box_area
from comics.ops.transfers import on_device

ASSIGNMENTS = ("ratio", "area")
SMALLEST_AREA = 1e-6  # of a box in pixels: keeps the logarithm of one without area finite


class SpatialAttention(nn.Module):
    """Weights in (0, 1) of each place, from the mean and the largest of its channels (eq. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[P, C, S, S] to the same shape, weighted."""
        summary = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.conv(summary).sigmoid()


class SpatialAttentionMaskHead(MaskHead):
    """Mask R-CNN's mask head with ``SpatialAttention`` before the doubling ("SAG-Mask").

    Args:
        in_channels: C.
        attention: False leaves the attention out.
        mask_head: further arguments of ``MaskHead``.
    """

    def __init__(self, in_channels: int, *, attention: bool = True, **mask_head: Any) -> None:
        super().__init__(in_channels, **mask_head)
        self.attention = SpatialAttention() if attention else None

    def convolved(self, pooled: Tensor) -> Tensor:
        """See ``MaskHead.convolved``; after the attention."""
        convolved = super().convolved(pooled)
        return convolved if self.attention is None else self.attention(convolved)


class AdaptivePooler(PyramidPooler):
    """Pools boxes from a level by their share of the image (section 3.2, "adaptive RoI").

    Args:
        levels, strides: see ``PyramidPooler``.
        assignment: "ratio"; "area" is ``PyramidPooler``'s rule, whatever the image.
        pooler: further arguments of ``PyramidPooler``.

    Raises:
        ValueError: for another assignment, and as ``PyramidPooler``.
    """

    def __init__(
        self, levels: Sequence[str], strides: Sequence[int], *, assignment: str, **pooler: Any
    ) -> None:
        super().__init__(levels, strides, **pooler)
        if assignment not in ASSIGNMENTS:
            raise ValueError(
                f"MODEL.CENTERMASK.ASSIGN_CRITERION must be one of {ASSIGNMENTS}, got "
                f"{assignment!r}"
            )
        self.assignment = assignment

    def level_in(self, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """[P] int64: position in ``levels`` for boxes (one [N, 4] per image) in images of sizes.

        k = ceil(k_max - log2(image area / box area)), cut to the levels there are (eq. 2).

        Args:
            boxes: pixels.
            sizes: (height, width) of each image before padding.
        """
        every = torch.cat(list(boxes)).float()
        if self.assignment == "area":
            return self.level_of(every)
        areas = on_device([float(h * w) for h, w in sizes], every.device)
        ratio = areas[image_of_each(boxes)] / box_area(every).clamp(min=SMALLEST_AREA)
        last = len(self.levels) - 1
        return (last - ratio.log2()).ceil().clamp(0, last).to(torch.int64)

    def pool(
        self,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Boxes (one [N, 4] per image, pixels) in images of sizes to [P, C, S, S] float32."""
        return pool_by_level(
            [features[level] for level in self.levels],
            self.strides,
            boxes,
            self.level_in(boxes, sizes),
            size=self.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

"""Features of boxes from the pyramid level that fits their size (Lin et al. 2017,
arXiv:1612.03144, eq. 1), by ROIAlign (He et al. 2017, arXiv:1703.06870, section 3).

torchvision's ``MultiScaleRoIAlign`` has no half-pixel shift, which Detectron2's "ROIAlignV2" does.

Shape letters: B images; C channels; P boxes of the batch; S side of the pooled map; h, w of a
level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_area, roi_align

CANONICAL_SIZE = 224  # side in pixels of a box that belongs to CANONICAL_LEVEL: ImageNet's
CANONICAL_LEVEL = 4
SIZE_EPSILON = 1e-8  # keeps the logarithm of a box without area finite
ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}  # with or without the half-pixel shift


class PyramidPooler(nn.Module):
    """Pools boxes from the level that their size belongs to. It has no parameters.

    Args:
        levels: names of levels whose strides double, finest first.
        strides: of those levels, pixels per cell.
        size: S.
        sampling_ratio: samples per bin and side; 0 takes as many as fit.
        pooler_type: "ROIAlignV2", or "ROIAlign" without the half-pixel shift.

    Raises:
        ValueError: for strides that do not double, or another pooler type.
    """

    def __init__(
        self,
        levels: Sequence[str],
        strides: Sequence[int],
        *,
        size: int,
        sampling_ratio: int = 0,
        pooler_type: str = "ROIAlignV2",
    ) -> None:
        super().__init__()
        if pooler_type not in ALIGNED:
            raise ValueError(f"POOLER_TYPE must be one of {tuple(ALIGNED)}, got {pooler_type!r}")
        if any(2 * fine != coarse for fine, coarse in zip(strides, strides[1:], strict=False)):
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES {list(levels)} must have doubling strides, got "
                f"{list(strides)}"
            )
        self.levels = tuple(levels)
        self.strides = tuple(strides)
        self.size = size
        self.sampling_ratio = sampling_ratio
        self.aligned = ALIGNED[pooler_type]

    def level_of(self, boxes: Tensor) -> Tensor:
        """[P] int64: position in ``levels`` of the level that each of [P, 4] boxes belongs to.

        floor(4 + log2(sqrt(area) / 224)), cut to the levels there are.
        """
        finest = self.strides[0].bit_length() - 1
        ratio = box_area(boxes.float()).sqrt() / CANONICAL_SIZE + SIZE_EPSILON
        level = (CANONICAL_LEVEL + ratio.log2()).floor() - finest
        return level.clamp(0, len(self.levels) - 1).to(torch.int64)

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Boxes (one [P_i, 4] per image, pixels) to [P, C, S, S] float32, image by image.

        Args:
            features: level name -> [B, C, h, w].
            boxes: B tensors.
        """
        joined = torch.cat(list(boxes)).float()
        image = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)]).to(joined)
        rois = torch.cat((image, joined), dim=1)
        level_of = self.level_of(joined)
        pooled, order = [], []
        for position, (level, stride) in enumerate(zip(self.levels, self.strides, strict=True)):
            here = (level_of == position).nonzero().squeeze(1)
            pooled.append(
                roi_align(
                    features[level].float(),
                    rois[here],
                    self.size,
                    spatial_scale=1 / stride,
                    sampling_ratio=self.sampling_ratio,
                    aligned=self.aligned,
                )
            )
            order.append(here)
        return torch.cat(pooled)[torch.argsort(torch.cat(order))]

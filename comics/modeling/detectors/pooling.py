"""Features within boxes, by ROIAlign (He et al. 2017, arXiv:1703.06870, section 3): of one map, or
for each box of the pyramid level that fits its size (Lin et al. 2017, arXiv:1612.03144, eq. 1).

torchvision's ``MultiScaleRoIAlign`` has no half-pixel shift, which Detectron2's "ROIAlignV2" does.

Shape letters: B images; C channels; P boxes of the batch; S side of the pooled map; h, w of a
level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from comics.modeling.detectors.cells import by_level, image_of_each
from comics.ops.boxes import box_area
from comics.ops.compiled import roi_align
from comics.ops.transfers import on_device

CANONICAL_SIZE = 224  # side in pixels of a box that belongs to CANONICAL_LEVEL: ImageNet's
CANONICAL_LEVEL = 4
SIZE_EPSILON = 1e-8  # keeps the logarithm of a box without area finite
ADAPTIVE_SAMPLING = -1  # ROIAlign: as many samples as fit into a bin
ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}  # with or without the half-pixel shift


def pool_map(feature: Tensor, boxes: Sequence[Tensor], size: int, scale: float) -> Tensor:
    """A map within boxes: [P, C, size, size] float32.

    As many samples per bin as fit, like the ground-truth masks that it is compared with.

    Args:
        feature: [B, C, h, w].
        boxes: per image [P_i, 4], pixels.
        size: cells a side.
        scale: cells of the map per pixel.
    """
    return roi_align(
        feature.float(),
        [b.float() for b in boxes],
        size,
        spatial_scale=scale,
        sampling_ratio=ADAPTIVE_SAMPLING,
        aligned=True,
    )


def pool_by_reach(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    bounds: Sequence[float],
    boxes: Sequence[Tensor],
    *,
    size: int,
) -> Tensor:
    """Each box from the first level whose bound reaches from its centre to its sides.

    Args:
        maps, strides, boxes, size: as of ``pool_by_level``.
        bounds: pixels, of each level but the last.
    """
    every = torch.cat(list(boxes)).float()
    reach = (every[:, 2:] - every[:, :2]).amax(dim=1) / 2
    limits = on_device(list(bounds), every.device, reach.dtype)
    level = torch.bucketize(reach, limits)
    return pool_by_level(maps, strides, boxes, level, size=size)


def pool_by_level(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Sequence[Tensor],
    level: Tensor,
    *,
    size: int,
    sampling_ratio: int = ADAPTIVE_SAMPLING,
    aligned: bool = True,
) -> Tensor:
    """Each box from a level of its own: [P, C, size, size] float32, image by image.

    Args:
        maps: per level [B, C, h, w].
        strides: pixels per cell of each level.
        boxes: per image [P_i, 4], pixels.
        level: [P] int64, of all boxes in order.
        size: cells a side.
        sampling_ratio: samples per bin and side; 0 or less takes as many as fit.
        aligned: with the half-pixel shift.
    """
    rois = torch.cat((image_of_each(boxes)[:, None].float(), torch.cat(list(boxes)).float()), 1)

    def read(index: int, rows: Tensor) -> Tensor:
        """The features of some rows of boxes, from the map of one level."""
        return roi_align(
            maps[index].float(),
            rois[rows],
            size,
            spatial_scale=1 / strides[index],
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )

    return by_level(level, len(maps), read)


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
        return pool_by_level(
            [features[level] for level in self.levels],
            self.strides,
            boxes,
            self.level_of(torch.cat(list(boxes))),
            size=self.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

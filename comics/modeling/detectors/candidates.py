"""What a detector's ``select`` hands on: faces whose masks are still small and soft.

Whoever merges, thresholds or counts candidates touches no pixel of a mask; ``Candidates.drawn``
makes the bitmaps of those that are left, once, at the size that is asked for. That is the only
place where a detector's masks become bitmaps.

Shape letters: N candidates of one image; R side of a square mask; h, w grid of the whole image; V
corners of a polygon; H, W image that masks are drawn in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from comics.ops.boxes import clip_boxes, nonempty, scale_boxes
from comics.ops.mask_parts import (
    MaskPart,
    draw_parts,
    grid_parts,
    part_boxes,
    polygon_parts,
)
from comics.ops.roi_masks import square_parts
from comics.ops.transfers import on_device
from comics.structures import Faces


class SoftMasks(Protocol):
    """N masks that have not been drawn yet."""

    @property
    def shown(self) -> bool:
        """Draw bitmaps; False: the masks serve for boxes only."""

    @property
    def give_boxes(self) -> bool:
        """The boxes of the faces are those of their bitmaps."""

    def parts(self, size: tuple[int, int], output_size: tuple[int, int]) -> list[MaskPart]:
        """The masks of an image of ``size``, in the same image of another size."""

    def map(self, function: Callable[[Tensor], Tensor]) -> SoftMasks:
        """The same masks with ``function`` applied to every tensor of N rows."""


@dataclass(frozen=True)
class SquareMasks:
    """Masks that fill boxes.

    Attributes:
        soft: [N, R, R] in [0, 1].
        boxes: [N, 4] pixels of the network's input; may reach outside it.
    """

    soft: Tensor
    boxes: Tensor
    shown: bool = True
    give_boxes: bool = False

    def parts(self, size: tuple[int, int], output_size: tuple[int, int]) -> list[MaskPart]:
        """See ``SoftMasks.parts``."""
        scale_y, scale_x = output_size[0] / size[0], output_size[1] / size[1]
        return square_parts(self.soft, scale_boxes(self.boxes, scale_x, scale_y), output_size)

    def map(self, function: Callable[[Tensor], Tensor]) -> SquareMasks:
        """See ``SoftMasks.map``."""
        return replace(self, soft=function(self.soft), boxes=function(self.boxes))


@dataclass(frozen=True)
class GridMasks:
    """Masks on a grid of the whole padded image.

    Attributes:
        soft: [N, h, w] in [0, 1].
        stride, aligned, threshold: see ``grid_parts``.
    """

    soft: Tensor
    stride: int
    aligned: bool
    threshold: float = 0.5
    shown: bool = True
    give_boxes: bool = False

    def parts(self, size: tuple[int, int], output_size: tuple[int, int]) -> list[MaskPart]:
        """See ``SoftMasks.parts``."""
        return grid_parts(
            self.soft,
            stride=self.stride,
            size=size,
            output_size=output_size,
            aligned=self.aligned,
            threshold=self.threshold,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> GridMasks:
        """See ``SoftMasks.map``."""
        return replace(self, soft=function(self.soft))


@dataclass(frozen=True)
class PolygonMasks:
    """Masks that are the insides of polygons.

    Attributes:
        points: [N, V, 2] (x, y) pixels of the network's input, in order; may lie outside it.
    """

    points: Tensor
    shown: bool = True
    give_boxes: bool = False

    def parts(self, size: tuple[int, int], output_size: tuple[int, int]) -> list[MaskPart]:
        """See ``SoftMasks.parts``."""
        scale = [output_size[1] / size[1], output_size[0] / size[0]]
        scaled = self.points * on_device(scale, self.points.device, self.points.dtype)
        return polygon_parts(scaled, output_size)

    def map(self, function: Callable[[Tensor], Tensor]) -> PolygonMasks:
        """See ``SoftMasks.map``."""
        return replace(self, points=function(self.points))


@dataclass(frozen=True)
class Candidates(Faces):
    """Detections of one image in pixels of the network's input, clipped to it; ``masks`` is None.

    Attributes:
        soft_masks: their masks; None where a detector gives none.
    """

    scores: Tensor
    soft_masks: SoftMasks | None = None

    @classmethod
    def of(
        cls,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        soft_masks: SoftMasks | None = None,
    ) -> Candidates:
        """Clip boxes to the input and leave out those without area.

        Args:
            boxes: [N, 4] pixels of the network's input.
            scores, labels: [N], as in ``Faces``.
            size: (height, width) of the input before padding.
            soft_masks: N masks or None.
        """
        clipped = clip_boxes(boxes, size)
        every = cls(clipped, (size[0], size[1]), labels, scores, soft_masks=soft_masks)
        return every[nonempty(clipped).nonzero().squeeze(1)] if len(every) else every

    def drawn(self, output_size: tuple[int, int]) -> Faces:
        """The faces in the same image of (H, W), boxes clipped to it, with bitmaps.

        Every candidate is kept, also one whose mask has no pixel there: it was found.
        """
        height, width = output_size
        scale_y, scale_x = height / self.image_size[0], width / self.image_size[1]
        boxes = clip_boxes(scale_boxes(self.boxes, scale_x, scale_y), (height, width))
        masks = None
        if self.soft_masks is not None:
            device = boxes.device
            parts = self.soft_masks.parts(self.image_size, (height, width))
            if self.soft_masks.give_boxes:
                tight = part_boxes(parts, device)
                boxes = torch.where(nonempty(tight)[:, None], tight.to(boxes), boxes)
            if self.soft_masks.shown:
                masks = draw_parts(parts, (height, width), device)
        return Faces(
            boxes=boxes,
            image_size=(height, width),
            labels=self.labels,
            scores=self.scores,
            masks=masks,
            fake_probability=self.fake_probability,
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        mapped = super()._map(function)
        if self.soft_masks is None:
            return mapped
        return replace(mapped, soft_masks=self.soft_masks.map(function))

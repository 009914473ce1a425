"""Faces with bitmaps, moved to the coordinates of the same picture at another size.

Our detectors' masks are drawn last (``comics.modeling.detectors.candidates``); this is for pages
that show a smaller copy of a picture, and for models that draw masks themselves.

Shape letters: N faces; H, W height and width of the picture wanted; h, w of the one given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comics.data.transforms import MASK_THRESHOLD, resize_image
from comics.modeling.detectors.candidates import Candidates
from comics.ops.mask_parts import MaskPart
from comics.structures import Faces


@dataclass(frozen=True)
class DrawnMasks:
    """Bitmaps as ``SoftMasks``.

    Attributes:
        bitmaps: [N, h, w] bool.
    """

    bitmaps: Tensor
    shown: bool = True
    give_boxes: bool = False

    def parts(self, size: tuple[int, int], output_size: tuple[int, int]) -> list[MaskPart]:
        """See ``SoftMasks.parts``; resized like pictures, set where most of a pixel is."""
        if size == output_size:
            return [MaskPart(0, 0, bitmap) for bitmap in self.bitmaps]
        return [MaskPart(0, 0, _resized(bitmap, output_size)) for bitmap in self.bitmaps]

    def map(self, function: Callable[[Tensor], Tensor]) -> DrawnMasks:
        """See ``SoftMasks.map``."""
        return DrawnMasks(function(self.bitmaps))


def as_candidates(faces: Faces) -> Candidates:
    """Faces of a model that draws masks itself, as those of one that does not; boxes as given."""
    assert faces.scores is not None  # a model's
    return Candidates(
        boxes=faces.boxes,
        image_size=faces.image_size,
        labels=faces.labels,
        scores=faces.scores,
        fake_probability=faces.fake_probability,
        soft_masks=None if faces.masks is None else DrawnMasks(faces.masks),
    )


def candidates_of(detector: Any, images: Sequence[Tensor]) -> list[Candidates]:
    """The candidates of images, also of a detector that knows only how to give ``Faces``."""
    if hasattr(detector, "candidates"):
        return detector.candidates(images)
    return [as_candidates(faces) for faces in detector(images)]


def to_original(faces: Faces, size: tuple[int, int]) -> Faces:
    """Faces in an image of (h, w), expressed in the one of (H, W) that it was resized from.

    Boxes are clipped to the image. Every face is kept, also one whose mask is empty: it was found.
    """
    return as_candidates(faces).drawn(size)


def _resized(bitmap: Tensor, size: tuple[int, int]) -> Tensor:
    soft = resize_image(bitmap.cpu().numpy().astype(np.uint8) * 255, size)
    return torch.from_numpy(soft > MASK_THRESHOLD)

"""What an annotation file says about its images, before any of them is decoded.

Boxes are (x0, y0, x1, y1) in pixels of the upright image, right and bottom edges exclusive.
Shape letters: N faces; H, W height and width of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from comics.ops.masks import Segmentation, segmentation_to_bitmap
from comics.structures import Faces


class DatasetError(ValueError):
    """An annotation file or set of images that cannot be used; the text says where and why."""


@dataclass(frozen=True, slots=True)
class FaceAnnotation:
    """One annotated face.

    Attributes:
        annotation_id: its id in the annotation file; 0 is legal.
        box: (x0, y0, x1, y1), pixels.
        label: 0 real, 1 fake.
        segmentation: polygons or RLE (``comics.ops.masks``); None where the file has none.
        iscrowd: a region to ignore, not a face: it is no target in training.
        area: square pixels, as the file says, which decides its size class; None where it does not.
    """

    annotation_id: int
    box: tuple[float, float, float, float]
    label: int
    segmentation: Segmentation | None = None
    iscrowd: bool = False
    area: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a set, with its faces.

    Attributes:
        image_id: its id in the annotation file; 0 is legal.
        file_name: path relative to ``root``, with forward slashes, as in the annotation file.
        root: folder that ``file_name`` starts from.
        height, width: pixels, EXIF orientation applied.
        faces: its annotations, crowd regions included, in the order of the file.
    """

    image_id: int
    file_name: str
    root: str
    height: int
    width: int
    faces: tuple[FaceAnnotation, ...] = ()

    @property
    def path(self) -> Path:
        """Where the image is."""
        return Path(self.root) / self.file_name

    @property
    def targets(self) -> list[FaceAnnotation]:
        """The faces that a detector is trained on: those that are not crowd regions."""
        return [face for face in self.faces if not face.iscrowd]

    def ground_truth(self, with_masks: bool = True) -> Faces:
        """``targets`` as ``Faces`` in the coordinates of the image, with masks if asked for.

        Decision: a face without a usable, non-empty segmentation gets its box as mask, so that
        it is not left out (an unlabelled face would be learnt as background). The reader warns
        of such faces.
        """
        size, targets = (self.height, self.width), self.targets
        masks = None
        if with_masks:
            masks = torch.zeros((len(targets), *size), dtype=torch.bool)
            for row, face in zip(masks, targets, strict=True):
                row.copy_(face_bitmap(face, *size))
        boxes = torch.tensor([face.box for face in targets], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([face.label for face in targets], dtype=torch.int64)
        return Faces(boxes=boxes, image_size=size, labels=labels, masks=masks)


def face_bitmap(face: FaceAnnotation, height: int, width: int) -> Tensor:
    """[height, width] bool mask of a face; its box where its segmentation is absent or empty."""
    if face.segmentation is not None:
        bitmap = segmentation_to_bitmap(face.segmentation, height, width)
        if bitmap.any():
            return bitmap
    return box_bitmap(face.box, height, width)


def box_bitmap(box: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    """[height, width] bool, true on every pixel that the box touches."""
    bitmap = torch.zeros((height, width), dtype=torch.bool)
    x0, y0 = (max(math.floor(value), 0) for value in box[:2])
    x1, y1 = (max(math.ceil(value), 0) for value in box[2:])
    bitmap[y0:y1, x0:x1] = True
    return bitmap

"""Square training samples of one size: a window of one photo, or a mosaic of windows of four.

Batches of equal squares are not padded, and a mosaic shows faces of four photos at four scales,
cut at unusual places (after Bochkovskiy et al. 2020, arXiv:2004.10934; the parameters are our own).
A window holds at least one whole face of its photo, if it has any.

Shape letters: H, W photo; S side of the square; h, w window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from comics.data.transforms import crop, resize_faces, resize_image
from comics.ops.boxes import scale_boxes
from comics.structures import Faces

PHOTOS = 4  # of a mosaic
CENTRE = (0.35, 0.65)  # where the four meet, as shares of the side
FACE_SHARE = 0.95  # a face that is larger than this share of its window is shrunk to it
MIN_VISIBLE = 0.25  # as of ``RandomCrop``: a sliver of a face is no target
FILL = (124, 116, 104)  # RGB beyond the edge of a photo: ImageNet's mean


@dataclass(frozen=True)
class Mosaic:
    """How photos are laid on the square.

    Attributes:
        size: S, pixels; 0 leaves photos as they are.
        probability: of four photos; else the square is a window of one.

    Raises:
        ValueError: for a value out of range, naming its key of the configuration.
    """

    size: int = 0
    probability: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"INPUT.MOSAIC.SIZE must be 0 or more pixels, got {self.size}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"INPUT.MOSAIC.PROB must be in [0, 1], got {self.probability}")

    def photos(self, rng: np.random.Generator) -> int:
        """How many photos the next sample needs, 1 or ``PHOTOS``; draws only where both may be."""
        if not self.size or not self.probability:
            return 1
        return PHOTOS if rng.random() < self.probability else 1

    def lay(
        self, photos: Sequence[tuple[np.ndarray, Faces]], rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """The square of one or four photos: [S, S, 3] uint8, and the faces on it.

        Args:
            photos: [H, W, 3] uint8 each, with its faces.
            rng: source of the places.
        """
        if not self.size:
            return photos[0]
        if len(photos) == 1:
            return cut_window(*photos[0], (self.size, self.size), rng)
        across, down = (round(self.size * rng.uniform(*CENTRE)) for _ in range(2))
        canvas = np.empty((self.size, self.size, 3), np.uint8)
        placed = []
        for number, (image, faces) in enumerate(photos):
            left, right = ((0, across), (across, self.size))[number % 2]
            top, bottom = ((0, down), (down, self.size))[number // 2]
            part, found = cut_window(image, faces, (bottom - top, right - left), rng)
            canvas[top:bottom, left:right] = part
            placed.append(_on_canvas(found, left, top, canvas.shape[:2]))
        return canvas, _together(placed, self.size)


NO_MOSAIC = Mosaic()  # photos as they are


def cut_window(
    image: np.ndarray, faces: Faces, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, Faces]:
    """A window of (h, w) with one whole face, drawn with equal chance; filled beyond the photo.

    A photo whose drawn face does not fit is shrunk until it does. Faces with less than
    ``MIN_VISIBLE`` of their box inside are dropped.
    """
    box = [0.0] * 4  # without faces there is none to hold
    if len(faces):
        chosen = faces.boxes[int(rng.integers(len(faces)))]
        image, faces, box = _shrunk(image, faces, chosen, size)
    left, top, right, bottom = box
    first_row, last_row = _span(image.shape[0], size[0], top, bottom, rng)
    first_column, last_column = _span(image.shape[1], size[1], left, right, rng)
    window = (first_column, first_row, last_column, last_row)
    return _filled(*crop(image, faces, window, MIN_VISIBLE), size)


def _shrunk(
    image: np.ndarray, faces: Faces, box: Tensor, size: tuple[int, int]
) -> tuple[np.ndarray, Faces, list[float]]:
    """Photo, faces and the box [4] of one of them, made smaller where it does not fit (h, w)."""
    factor = _shrinking(box.tolist(), size)
    if factor == 1:
        return image, faces, box.tolist()
    height, width = image.shape[:2]
    smaller = (max(1, round(height * factor)), max(1, round(width * factor)))
    scaled = scale_boxes(box[None], smaller[1] / width, smaller[0] / height)[0]
    return resize_image(image, smaller), resize_faces(faces, smaller), scaled.tolist()


def _shrinking(box: Sequence[float], size: tuple[int, int]) -> float:
    """The factor at which a box fits into a window; 1 where it fits already."""
    width, height = box[2] - box[0], box[3] - box[1]
    return min(1.0, FACE_SHARE * size[0] / max(height, 1), FACE_SHARE * size[1] / max(width, 1))


def _span(
    length: int, side: int, low: float, high: float, rng: np.random.Generator
) -> tuple[int, int]:
    """At most ``side`` whole pixels of [0, length) that hold what is inside of [low, high]."""
    if length <= side:
        return 0, length
    earliest = int(np.clip(np.ceil(high) - side, 0, length - side))
    latest = int(np.clip(np.floor(low), earliest, length - side))
    if high <= low:  # no face to hold
        earliest, latest = 0, length - side
    start = int(rng.integers(earliest, latest + 1))
    return start, start + side


def _filled(image: np.ndarray, faces: Faces, size: tuple[int, int]) -> tuple[np.ndarray, Faces]:
    """Image and faces on a canvas of (h, w), at its top left."""
    if image.shape[:2] == size:
        return image, faces
    canvas = np.full((*size, 3), FILL, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas, _on_canvas(faces, 0, 0, size)


def _on_canvas(faces: Faces, left: int, top: int, size: tuple[int, int]) -> Faces:
    """Faces of an image that lies on a canvas of (h, w) with its corner at (left, top)."""
    masks = None
    if faces.masks is not None:
        height, width = faces.image_size
        masks = torch.zeros((len(faces), *size), dtype=torch.bool)
        masks[:, top : top + height, left : left + width] = faces.masks
    boxes = faces.boxes + faces.boxes.new_tensor([left, top, left, top])
    return replace(faces, boxes=boxes, image_size=size, masks=masks)


def _together(parts: Sequence[Faces], side: int) -> Faces:
    """The faces of all windows of a square, each already in its coordinates."""
    known = [part.masks for part in parts if part.masks is not None]
    masks = torch.cat(known) if len(known) == len(parts) else None
    return Faces(
        boxes=torch.cat([part.boxes for part in parts]),
        image_size=(side, side),
        labels=torch.cat([part.labels for part in parts]),
        masks=masks,
    )

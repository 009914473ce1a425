"""Joint geometry: one change of an image together with its boxes and masks.

Each transform is called as ``transform(image, faces, rng) -> (image, faces)``: [H, W, 3] uint8 RGB,
the ``Faces`` of that image, and a numpy generator that it alone draws from. Faces that end empty
(no box area, or no pixel of mask) are dropped. OpenCV does the resampling.

Coordinates are continuous: pixel (column i, row j) covers [i, i + 1] x [j, j + 1].
Shape letters: N faces; H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from comics.ops.boxes import box_area, clip_boxes, nonempty, scale_boxes
from comics.ops.mask_parts import mask_boxes
from comics.structures import Faces

Geometry = Callable[[np.ndarray, Faces, np.random.Generator], tuple[np.ndarray, Faces]]

MASK_THRESHOLD = 127  # a resampled mask (0..255) is set where more than half of a pixel is


def shortest_side_size(size: tuple[int, int], short_side: int, max_size: int) -> tuple[int, int]:
    """(H, W) whose short side is ``short_side``, or less where the long one passes ``max_size``.

    Aspect ratio is kept up to rounding (half up), no side falls below one pixel.
    """
    height, width = size
    scale = min(short_side / min(size), max_size / max(size))
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, ...] uint8 to (height, width): area average where it shrinks, bilinear otherwise."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def resize_faces(faces: Faces, size: tuple[int, int]) -> Faces:
    """Faces in an image resized to (height, width); those that end empty are dropped."""
    height, width = faces.image_size
    boxes = scale_boxes(faces.boxes, size[1] / width, size[0] / height)
    masks = _each_mask(faces.masks, size, lambda mask: resize_image(mask, size))
    return drop_empty(replace(faces, boxes=boxes, masks=masks, image_size=(size[0], size[1])))


def drop_empty(faces: Faces) -> Faces:
    """Leave out faces whose box has no area or whose mask has no pixel."""
    keep = nonempty(faces.boxes)
    if faces.masks is not None:
        keep &= faces.masks.flatten(1).any(dim=1)
    return faces if bool(keep.all()) else faces[keep]


@dataclass(frozen=True)
class ResizeShortestSide:
    """Resize to a short side drawn from ``short_sides``, the long side at most ``max_size``."""

    short_sides: Sequence[int]
    max_size: int

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """See the module."""
        short_side = self.short_sides[int(rng.integers(len(self.short_sides)))]
        size = shortest_side_size(image.shape[:2], short_side, self.max_size)
        return resize_image(image, size), resize_faces(faces, size)


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with ``probability``."""

    probability: float = 0.5

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """See the module."""
        if rng.random() >= self.probability:
            return image, faces
        x0, y0, x1, y1 = faces.boxes.unbind(1)
        width = faces.image_size[1]
        boxes = torch.stack((width - x1, y0, width - x0, y1), dim=1)
        masks = None if faces.masks is None else faces.masks.flip(2)
        return cv2.flip(image, 1), replace(faces, boxes=boxes, masks=masks)


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a window that holds at least one whole face, drawn with equal chance.

    Attributes:
        share: range of the window's height and of its width, as shares of the image's. A window
            smaller than the face is enlarged to it.
        min_visible: a face with less than this share of its box in the window is dropped
            (decision: a sliver of a face is no target).
    """

    share: tuple[float, float]
    min_visible: float = 0.25

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """See the module."""
        face = None
        if len(faces):
            face = faces.boxes[int(rng.integers(len(faces)))].tolist()
        spans = []
        for axis, length in ((1, image.shape[0]), (0, image.shape[1])):
            low, high = (0, 0) if face is None else (face[axis], face[axis + 2])
            spans.append(self._span(length, low, high, rng))
        (top, bottom), (left, right) = spans
        return crop(image, faces, (left, top, right, bottom), self.min_visible)

    def _span(
        self, length: int, low: float, high: float, rng: np.random.Generator
    ) -> tuple[int, int]:
        """A window of [0, length) along one axis that holds what is inside of [low, high]."""
        first, last = max(0, math.floor(low)), min(length, math.ceil(high))
        size = max(1, round(length * rng.uniform(*self.share)), last - first)
        earliest, latest = max(0, last - size), min(first, length - size)
        if last == first:  # no face to hold
            earliest, latest = 0, length - size
        start = int(rng.integers(earliest, latest + 1))
        return start, start + size


def crop(
    image: np.ndarray, faces: Faces, window: tuple[int, int, int, int], min_visible: float = 0.0
) -> tuple[np.ndarray, Faces]:
    """Cut out (x0, y0, x1, y1), whole pixels inside the image; boxes are clipped to the window.

    Faces with less than ``min_visible`` of their box inside, or nothing, are dropped.
    """
    left, top, right, bottom = window
    size = (bottom - top, right - left)
    moved = faces.boxes - faces.boxes.new_tensor([left, top, left, top])
    boxes = clip_boxes(moved, size)
    masks = None if faces.masks is None else faces.masks[:, top:bottom, left:right]
    visible = box_area(boxes) >= min_visible * box_area(moved)
    cut = replace(faces, boxes=boxes, masks=masks, image_size=size)
    return np.ascontiguousarray(image[top:bottom, left:right]), drop_empty(cut[visible])


@dataclass(frozen=True)
class Rotate:
    """Turn about the centre by an angle drawn from +- ``max_degrees``; the canvas stays.

    Attributes:
        max_degrees: the bound of the angle.
        fill: RGB of what comes into view from outside the image.
    """

    max_degrees: float
    fill: tuple[int, int, int] = (0, 0, 0)

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """See the module."""
        return rotate(image, faces, rng.uniform(-self.max_degrees, self.max_degrees), self.fill)


def rotate(
    image: np.ndarray,
    faces: Faces,
    degrees: float,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> tuple[np.ndarray, Faces]:
    """Turn counter-clockwise about the centre of the image; the canvas stays, corners are lost.

    New boxes bound the turned masks where there are masks, else the turned corners of the boxes;
    then they are clipped to the image.
    """
    height, width = size = image.shape[:2]
    # OpenCV's warp puts pixel centres at whole numbers; boxes have them at halves
    at_pixels = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    at_edges = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)

    def warp(array: np.ndarray, border: tuple[int, ...]) -> np.ndarray:
        return cv2.warpAffine(
            array, at_pixels, (width, height), flags=cv2.INTER_LINEAR, borderValue=border
        )

    masks = _each_mask(faces.masks, size, lambda mask: warp(mask, (0,)))
    if masks is not None:
        keep = masks.flatten(1).any(dim=1)
        faces, masks = faces[keep], masks[keep]
        boxes = mask_boxes(masks)
    else:
        boxes = _turn_boxes(faces.boxes, torch.from_numpy(at_edges).to(faces.boxes.dtype))
    turned = replace(faces, boxes=clip_boxes(boxes, size), masks=masks)
    return warp(image, fill), drop_empty(turned)


def _turn_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Bounds [N, 4] of the corners of [N, 4] boxes under a [2, 3] affine map."""
    x0, y0, x1, y1 = boxes.unbind(1)
    xs, ys = torch.stack((x0, x1, x1, x0), dim=1), torch.stack((y0, y0, y1, y1), dim=1)
    corners = torch.stack((xs, ys), dim=2) @ matrix[:, :2].T + matrix[:, 2]
    return torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other, drawing from the same generator."""

    transforms: tuple[Geometry, ...]

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """See the module."""
        for transform in self.transforms:
            image, faces = transform(image, faces, rng)
        return image, faces


def training_geometry(cfg: CfgNode) -> Compose:
    """INPUT.* for training: rotation, crop, resize, flip; each only where it is switched on.

    The crop comes before the resize, which enlarges it to the usual size, or after it
    (``INPUT.CROP.AFTER_RESIZE``): then faces keep their scale and pixels their neighbours, on
    which the traces of a forgery depend, and images are smaller.
    """
    inputs = cfg.INPUT
    if inputs.RANDOM_FLIP not in ("horizontal", "none"):
        raise ValueError(f"INPUT.RANDOM_FLIP is 'horizontal' or 'none', not {inputs.RANDOM_FLIP!r}")
    transforms: list[Geometry] = []
    if inputs.ROTATION:
        transforms.append(Rotate(inputs.ROTATION))
    resize = ResizeShortestSide(tuple(inputs.MIN_SIZE_TRAIN), inputs.MAX_SIZE_TRAIN)
    crop = [RandomCrop(tuple(inputs.CROP.SIZE))] if inputs.CROP.ENABLED else []
    transforms += [resize, *crop] if inputs.CROP.AFTER_RESIZE else [*crop, resize]
    if inputs.RANDOM_FLIP == "horizontal":
        transforms.append(HorizontalFlip())
    return Compose(tuple(transforms))


def evaluation_geometry(cfg: CfgNode) -> ResizeShortestSide:
    """INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST."""
    return ResizeShortestSide((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)


def _each_mask(
    masks: Tensor | None, size: tuple[int, int], function: Callable[[np.ndarray], np.ndarray]
) -> Tensor | None:
    """Apply a resampling of [H, W] uint8 (0 or 255) to every mask: [N, *size] bool."""
    if masks is None:
        return None
    result = torch.zeros((len(masks), *size), dtype=torch.bool)
    for row, mask in zip(result, masks, strict=True):
        resampled = function(mask.numpy().astype(np.uint8) * 255)
        row.copy_(torch.from_numpy(resampled > MASK_THRESHOLD))
    return result

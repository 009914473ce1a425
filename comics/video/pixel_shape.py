"""Frames whose pixels are not square: the model sees them as players show them.

Results stay in the pixels of the file: what the model finds is put back into them.

Shape letters: H, W height and width of a frame in the pixels of the file; N faces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from comics.data.video_files import square_size
from comics.structures import Faces
from comics.video.frames import Frame

Predict = Callable[[list[np.ndarray]], list[Faces]]


def predict_frames(predict: Predict, frames: Sequence[Frame]) -> list[Faces]:
    """The faces of frames, in the pixels of each.

    Args:
        predict: [H, W, 3] uint8 RGB images with square pixels -> the faces of each.
        frames: one or more.
    """
    found = predict([square_pixels(frame) for frame in frames])
    return [
        stored_faces(faces, frame.image.shape[:2])
        for frame, faces in zip(frames, found, strict=True)
    ]


def square_pixels(frame: Frame) -> np.ndarray:
    """[H', W', 3] uint8: the frame as it is shown; the frame's own array where that is the same."""
    if frame.pixel_aspect is None:
        return frame.image
    height, width = square_size(frame.image.shape[0], frame.image.shape[1], frame.pixel_aspect)
    return cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_CUBIC)


def stored_faces(faces: Faces, size: tuple[int, int]) -> Faces:
    """Faces that were found at another size of a frame, in its (H, W)."""
    if tuple(faces.image_size) == tuple(size):
        return faces
    across, down = size[1] / faces.image_size[1], size[0] / faces.image_size[0]
    scale = torch.tensor([across, down, across, down], dtype=faces.boxes.dtype)
    return replace(
        faces,
        boxes=faces.boxes * scale.to(faces.boxes.device),
        image_size=(size[0], size[1]),
        masks=None if faces.masks is None else _resized(faces.masks, size),
    )


def as_shown(frame: Frame, faces: Faces) -> tuple[np.ndarray, Faces]:
    """A frame [H', W', 3] with square pixels, and where its faces are in it, without their masks.

    Args:
        frame: as it is in the file.
        faces: in its pixels.
    """
    image = square_pixels(frame)
    return image, stored_faces(replace(faces, masks=None), (image.shape[0], image.shape[1]))


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(masks):
        return masks.new_zeros((0, *size))
    return functional.interpolate(masks[None].float(), size=size, mode="area")[0] >= 0.5

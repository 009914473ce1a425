"""What a predictor may be called with: pictures and videos, as files or in memory.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from comics.data.images import read_image, tensor_to_image, to_rgb
from comics.inference.pictured_faces import with_picture
from comics.inference.runs.batches import size_batches
from comics.inference.runs.inputs import LIVE, file_fault, is_video
from comics.inference.video.frames import Frame, Selection, VideoError
from comics.inference.video.source import LiveSource
from comics.inference.video.stream import FRAMES_AHEAD, open_reader
from comics.structures import Faces

Source = str | os.PathLike | np.ndarray | Tensor | Image.Image


class FrameFaces(NamedTuple):
    """The faces of a video's frame: its position, its time in seconds, and they."""

    index: int
    time_s: float
    faces: Faces


class ImagePredictor(Protocol):
    """What is needed of ``comics.inference.predictor.Predictor``."""

    max_pixels: int

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Verdicts of each [H, W, 3] uint8 RGB image."""

    def model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the model sees an image of that size at."""


def faces_of(
    predictor: ImagePredictor,
    source: Source | Sequence[Source],
    batch_size: int,
    selection: Mapping[str, float | None],
) -> Faces | list[Faces] | Iterator[FrameFaces]:
    """See ``Predictor.__call__``."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
    video = _video(source)
    if video is not None:
        return _frames(predictor, video, Selection(**selection), batch_size)
    if selection:
        names = ", ".join(selection)
        raise TypeError(f"{names}: these choose frames of a video, and this is none")
    if isinstance(source, (list, tuple)):
        return _pictures(predictor, source, batch_size)
    image = _read(source, predictor.max_pixels, "")
    (faces,) = predictor.predict([image])
    return with_picture(faces, image)


def _video(source: object) -> Path | LiveSource | None:
    """What is to be read as a video; None if it is none.

    Raises:
        VideoError: if it is no file.
    """
    if isinstance(source, str) and LIVE.fullmatch(source):
        return LiveSource(source)
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if not is_video(path):
        return None
    fault = file_fault(path)
    if fault is not None:
        raise VideoError(path, fault)
    return path


def _frames(
    predictor: ImagePredictor, path: Path | LiveSource, selection: Selection, batch_size: int
) -> Iterator[FrameFaces]:
    """Frames and their faces as they are read; memory does not grow with the video's length."""
    ahead = FRAMES_AHEAD * batch_size
    with open_reader(path, predictor.max_pixels, ahead, selection, writing=False) as reader:
        waiting: list[Frame] = []
        for frame in reader:
            waiting.append(frame)
            # Nobody wants to wait for what a camera shows next
            if len(waiting) == batch_size or reader.is_live:
                yield from _judged(predictor, waiting)
                waiting = []
        yield from _judged(predictor, waiting)
        if not reader.frames:
            raise VideoError(path, reader.fault or "no frame in the video stream")


def _judged(predictor: ImagePredictor, frames: Sequence[Frame]) -> Iterator[FrameFaces]:
    found = predictor.predict([frame.image for frame in frames])
    for frame, faces in zip(frames, found, strict=True):
        yield FrameFaces(frame.index, frame.time_s, faces)


def _pictures(predictor: ImagePredictor, sources: Sequence[Source], batch_size: int) -> list[Faces]:
    """In the order of ``sources``; files are read as their turn comes."""

    def read() -> Iterator[tuple[int, np.ndarray]]:
        for position, source in enumerate(sources):
            if _video(source) is not None:
                raise ValueError(f"item {position} is a video: call the predictor with it alone")
            yield position, _read(source, predictor.max_pixels, f"item {position}: ")

    found: dict[int, Faces] = {}
    batches = size_batches(
        read(),
        lambda item: predictor.model_size(item[1].shape[:2]),
        batch_size,
        lambda item: item[1].nbytes,
    )
    for batch in batches:
        faces = predictor.predict([image for _, image in batch])
        found.update(zip((position for position, _ in batch), faces, strict=True))
    return [found[position] for position in range(len(sources))]


def _read(source: Source, max_pixels: int, where: str) -> np.ndarray:
    """[H, W, 3] uint8 RGB.

    Raises:
        ImageError: for a file or Pillow image that cannot be used.
        TypeError, ValueError: naming what else was given.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source, max_pixels)
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if not isinstance(source, (np.ndarray, Tensor)):
        raise TypeError(
            f"{where}a predictor takes a path, an array, a tensor or a Pillow image, or a list of "
            f"such; got {type(source).__name__}"
        )
    image = source
    if isinstance(source, Tensor) and source.ndim == 3 and source.shape[0] == 3:
        image = tensor_to_image(source)
    expected = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3
    if not expected or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{where}a picture in memory is RGB, uint8, an array [H, W, 3] or a tensor [3, H, W]; "
            f"got {source.dtype} {tuple(source.shape)}"
        )
    return image

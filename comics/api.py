"""The Python interface: a predictor for pictures and videos, as files or in memory.

``comics.load`` makes one. Runs over many files are in ``comics.runs``.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from comics.data.images import read_image, tensor_to_image, to_rgb
from comics.found_faces import FoundFaces
from comics.inference.contract import FacePredictor
from comics.inference.predictor import Predictor
from comics.inference.verdict import VerdictRule
from comics.runs.batches import size_batches
from comics.runs.inputs import LIVE, file_fault, is_video
from comics.structures import Faces
from comics.video.frames import Frame, Selection, VideoError
from comics.video.pixel_shape import predict_frames
from comics.video.source import LiveSource
from comics.video.stream import FRAMES_AHEAD, MAX_HELD_BYTES, open_reader

Source = str | os.PathLike | np.ndarray | Tensor | Image.Image


class FrameFaces(NamedTuple):
    """The faces of one video frame, with the frame's index and its time in seconds."""

    index: int  # type: ignore[assignment]  # hides the method of tuples, which is not needed
    time_s: float
    faces: FoundFaces


class MediaPredictor:
    """What ``comics.load`` returns: a predictor that also reads pictures and videos.

    Args:
        predictor: what looks at images, of either runtime.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __call__(
        self, source: Source | Sequence[Source], *, batch_size: int = 4, **selection: float | None
    ) -> FoundFaces | list[FoundFaces] | Iterator[FrameFaces]:
        """The faces of a picture, of a list of pictures, or of each frame of a video.

        Args:
            source: a path; an RGB picture (array, tensor, Pillow image); or a list of such. A path
                of a video, an animation, or "webcam:0", "rtsp://..." is a video.
            batch_size: pictures or frames that go through the model together.
            selection: of a video: ``stride``, ``max_fps``, ``start_s``, ``end_s``, see
                ``comics.video.frames.Selection``.

        Returns:
            ``FoundFaces``; a list of them; or, of a video, an iterator of (index, time_s, faces).

        Raises:
            TypeError, ValueError: naming what cannot be used; ``ImageError`` and ``VideoError``
                are such. A video's faults beyond its name are met while iterating.
        """
        return faces_of(self.predictor, source, batch_size, selection)

    def predict(self, images: Sequence[np.ndarray | Tensor]) -> list[Faces]:
        """The faces of images in memory, as one batch: see ``Predictor.predict``."""
        return self.predictor.predict(images)

    def heat_maps(self, image: np.ndarray | Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
        """Where in each face forgery is seen: see ``Predictor.heat_maps``."""
        return self.predictor.heat_maps(image, faces)

    @property
    def rule(self) -> VerdictRule:
        """How detections become verdicts, with its thresholds."""
        return self.predictor.rule

    @property
    def provenance(self) -> dict[str, object]:
        """Software, model, weights, thresholds and calibration; JSON."""
        return self.predictor.provenance


def faces_of(
    predictor: FacePredictor,
    source: Source | Sequence[Source],
    batch_size: int,
    selection: Mapping[str, Any],
) -> FoundFaces | list[FoundFaces] | Iterator[FrameFaces]:
    """See ``MediaPredictor.__call__``."""
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
    return FoundFaces.of(faces, _kept(source, image), image)


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
    predictor: FacePredictor, path: Path | LiveSource, selection: Selection, batch_size: int
) -> Iterator[FrameFaces]:
    """Frames and their faces as they are read; memory does not grow with the video's length."""
    ahead = FRAMES_AHEAD * batch_size
    with open_reader(path, predictor.max_pixels, ahead, selection, writing=False) as reader:
        waiting: list[Frame] = []
        for frame in reader:
            if not isinstance(frame, Frame):
                continue  # sound, which was not asked for
            waiting.append(frame)
            held = sum(each.image.nbytes for each in waiting)
            del frame  # it may be hundreds of megabytes
            # Nobody wants to wait for what a camera shows next
            if len(waiting) == batch_size or held >= MAX_HELD_BYTES or reader.is_live:
                yield from _judged(predictor, waiting)
                waiting = []
        yield from _judged(predictor, waiting)
        if not reader.frames:
            raise VideoError(path, reader.fault or "no frame in the video stream")


def _judged(predictor: FacePredictor, frames: Sequence[Frame]) -> Iterator[FrameFaces]:
    found = predict_frames(predictor.predict, frames) if frames else []
    for frame, faces in zip(frames, found, strict=True):
        yield FrameFaces(frame.index, frame.time_s, FoundFaces.of(faces))


def _pictures(
    predictor: FacePredictor, sources: Sequence[Source], batch_size: int
) -> list[FoundFaces]:
    """In the order of ``sources``; files are read as their turn comes."""

    def read() -> Iterator[tuple[int, np.ndarray]]:
        for position, source in enumerate(sources):
            if _video(source) is not None:
                raise ValueError(f"item {position} is a video: call the predictor with it alone")
            yield position, _read(source, predictor.max_pixels, f"item {position}: ")

    found: dict[int, FoundFaces] = {}
    batches = size_batches(
        read(),
        lambda item: predictor.model_size(item[1].shape[:2]),
        batch_size,
        lambda item: item[1].nbytes,
    )
    for batch in batches:
        faces = predictor.predict([image for _, image in batch])
        for (position, image), each in zip(batch, faces, strict=True):
            found[position] = FoundFaces.of(each, _kept(sources[position], image))
    return [found[position] for position in range(len(sources))]


def _kept(source: object, image: np.ndarray) -> str | os.PathLike | np.ndarray:
    """What faces keep of their picture: its path, or its pixels where it came without a file."""
    return source if isinstance(source, (str, os.PathLike)) else image


def _read(source: Source | Sequence[Source], max_pixels: int, where: str) -> np.ndarray:
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

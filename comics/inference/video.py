"""Looking for faces in a video: decode, detect in batches, draw and encode as a stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np

from comics.inference.files import atomic_path
from comics.inference.video_reader import Frame, VideoError, VideoReader
from comics.inference.video_writer import VideoWriter
from comics.structures import Faces

__all__ = ["VideoError", "VideoReport", "process_video"]

Predict = Callable[[list[np.ndarray]], list[Faces]]
Annotate = Callable[[np.ndarray, Faces], np.ndarray]
OnFrame = Callable[[Frame, Faces], None]
FRAMES_AHEAD = 2  # batches of frames held at once, at most, by the decoder and again by the loop


@dataclass(frozen=True)
class VideoReport:
    """How reading a video went.

    Attributes:
        frames: decoded.
        analysed_frames: that the detector saw.
        fault: why not everything could be read; None if everything was.
        note: what was left out of the annotated video; None if nothing.
    """

    frames: int
    analysed_frames: int
    fault: str | None
    note: str | None


def process_video(
    path: str | os.PathLike,
    predict: Predict,
    on_frame: OnFrame,
    *,
    max_pixels: int,
    batch_size: int = 4,
    stride: int = 1,
    output: str | os.PathLike | None = None,
    annotate: Annotate | None = None,
) -> VideoReport:
    """Find the faces in every ``stride``-th frame of a video or GIF; memory does not grow.

    Args:
        path: the video.
        predict: upright [H, W, 3] uint8 RGB frames -> the faces of each.
        on_frame: called for every analysed frame, in order.
        max_pixels: videos with larger frames are refused.
        batch_size: frames per call of ``predict``, at most.
        stride: frames between two analysed ones, plus 1.
        output: annotated MP4 with every frame of the source; one that was not analysed shows the
            faces of the analysed one before it. Needs ``annotate``. None writes nothing.
        annotate: draws faces on a frame.

    Raises:
        VideoError: if the file cannot be opened, holds no video, or not one frame can be decoded.
            ``output`` is then not written.
    """
    if stride < 1 or batch_size < 1:
        raise ValueError(f"stride and batch_size must be 1 or more, got {stride}, {batch_size}")
    writing = output is not None
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(
            VideoReader(
                path,
                max_pixels,
                queue_size=FRAMES_AHEAD * batch_size,
                step=1 if writing else stride,
                with_audio=writing,
            )
        )
        writer = None
        if writing:
            writer = VideoWriter(stack.enter_context(atomic_path(output)), reader)
        loop = _Loop(predict, on_frame, annotate, writer, batch_size, stride)
        for item in reader:
            loop.add(item)
        loop.flush()
        if not reader.frames:
            raise VideoError(path, reader.fault or "no frame in the video stream")
        if writer is not None:
            writer.close()
        note = None if writer is None else writer.audio_note
        return VideoReport(reader.frames, loop.analysed_frames, reader.fault, note)


class _Loop:
    """Collects frames until a batch is full, then detects, draws and writes them in order."""

    def __init__(
        self,
        predict: Predict,
        on_frame: OnFrame,
        annotate: Annotate | None,
        writer: VideoWriter | None,
        batch_size: int,
        stride: int,
    ) -> None:
        self.analysed_frames = 0
        self._predict, self._on_frame, self._annotate = predict, on_frame, annotate
        self._writer = writer
        self._batch_size, self._stride = batch_size, stride
        self._pending: list[Frame | av.Packet] = []
        self._latest: Faces | None = None

    def add(self, item: Frame | av.Packet) -> None:
        self._pending.append(item)
        frames = [item for item in self._pending if isinstance(item, Frame)]
        full = sum(map(self._is_analysed, frames)) == self._batch_size
        if full or len(frames) == FRAMES_AHEAD * self._batch_size:
            self.flush()

    def flush(self) -> None:
        pending, self._pending = self._pending, []
        batch = [item.image for item in pending if self._is_analysed(item)]
        found = iter(self._predict(batch) if batch else ())
        for item in pending:
            if isinstance(item, av.Packet):
                self._writer.write_audio(item)
                continue
            if self._is_analysed(item):
                self.analysed_frames += 1
                self._latest = next(found)
                self._on_frame(item, self._latest)
            if self._writer is not None:
                self._writer.write(self._annotated(item.image), item)

    def _annotated(self, image: np.ndarray) -> np.ndarray:
        if self._latest.image_size != image.shape[:2]:  # the video changed its size on the way
            return image
        return self._annotate(image, self._latest)

    def _is_analysed(self, item: Frame | av.Packet) -> bool:
        return isinstance(item, Frame) and item.index % self._stride == 0

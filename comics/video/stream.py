"""Looking for faces in a video: decode, detect in batches, draw and encode as a stream.

Three threads overlap: one decodes, the caller's runs the model, one draws and encodes. What lies
between them is bounded, so memory does not depend on the length of a video.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import av
import numpy as np

from comics.structures import Faces
from comics.video.animation_reader import AnimationReader, is_animation
from comics.video.annotated_video import Annotate, AnnotatedVideo, Shown
from comics.video.frames import Frame, Selection, VideoError
from comics.video.pixel_shape import predict_frames
from comics.video.reader import VideoReader
from comics.video.source import LiveSource

__all__ = ["Stopped", "VideoError", "VideoReport", "process_video"]

Predict = Callable[[list[np.ndarray]], list[Faces]]
OnFrame = Callable[[Frame, Faces], Any]
Progress = Callable[[int, int | None], object]  # frames done, of about how many (None: not known)
FRAMES_AHEAD = 2  # batches of frames held at once, at most, by the decoder and by the encoder
# Frames that are only drawn on wait with those of their batch. Beyond so many bytes a batch goes
# through the model before it is full
MAX_HELD_BYTES = 2**27


class Stopped(Exception):
    """``stop`` asked to end before the end of the video."""


@dataclass(frozen=True)
class VideoReport:
    """How reading a video went.

    Attributes:
        frames: decoded, of the part that was looked at.
        analysed_frames: that the detector saw.
        fault: why not everything could be read; None if everything was.
        note: what was left out of the annotated video, or passed over; None if nothing.
        output_fault: why there is no annotated video though one was asked for; None if there is.
        width, height: of the first frame, upright.
        end_s: seconds from the video's first frame to the end of the last one.
    """

    frames: int
    analysed_frames: int
    fault: str | None
    note: str | None
    output_fault: str | None = None
    width: int = 0
    height: int = 0
    end_s: float = 0.0


def process_video(
    path: str | os.PathLike,
    predict: Predict,
    on_frame: OnFrame,
    *,
    max_pixels: int,
    batch_size: int = 4,
    selection: Selection = Selection(),  # noqa: B008  (it is frozen)
    output: str | os.PathLike | None = None,
    annotate: Annotate | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
) -> VideoReport:
    """Find the faces in the selected frames of a video or animation; memory does not grow.

    Args:
        path: the video, or a ``LiveSource``.
        predict: upright [H, W, 3] uint8 RGB frames -> the faces of each.
        on_frame: called for every analysed frame, in order. What it returns is what ``annotate``
            gets of that frame; where it returns None, that is its faces.
        max_pixels: videos with larger frames are refused.
        batch_size: frames per call of ``predict``, at most.
        selection: the part of the video, and which of its frames are analysed.
        output: annotated MP4 with every frame of that part; one that was not analysed shows the
            faces of the analysed one before it. Needs ``annotate``. None writes nothing.
        annotate: draws on a frame; called in a thread of its own.
        stop: after each batch, True ends a live source; while no frame comes, it gives up a file.
        progress: told after each batch.

    Raises:
        Stopped: if ``stop`` returned True.
        VideoError: if the file cannot be opened, holds no video, or not one frame can be decoded.
            ``output`` is then not written.
        OSError: if the disk is full. Where the annotated video cannot be encoded for another
            reason, the report says so, and the analysis is whole.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    ahead, annotated = FRAMES_AHEAD * batch_size, None
    with contextlib.ExitStack() as stack:
        reader = open_reader(path, max_pixels, ahead, selection, output is not None)
        stack.enter_context(reader)
        if output is not None:
            assert annotate is not None  # which goes with output
            annotated = stack.enter_context(AnnotatedVideo(output, reader, annotate, ahead))
        loop = _Loop(predict, on_frame, annotated, batch_size, partial(_tell, progress, reader))
        is_stopped = reader.watch(stop)
        for item in reader:
            loop.add(item)
            del item  # it may be hundreds of megabytes, and the next is on its way
            if reader.is_live and stop():
                reader.stop()
        if not reader.is_live and is_stopped():
            raise Stopped
        loop.flush()
        if not loop.frames:
            raise VideoError(path, reader.fault or _no_frame(selection))
        if annotated is not None:
            annotated.finish()
        return loop.report(reader)


def annotate_video(
    path: str | os.PathLike,
    drawn: Callable[[Frame], Any],
    *,
    output: str | os.PathLike,
    annotate: Annotate,
    max_pixels: int,
    selection: Selection = Selection(),  # noqa: B008  (it is frozen)
    ahead: int = FRAMES_AHEAD,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
) -> tuple[str | None, str | None]:
    """Write the annotated video of one that has been analysed: what is drawn is known by now.

    Args:
        path: the video.
        drawn: an analysed frame -> what ``annotate`` gets of it; the frames after it, up to the
            next analysed one, show the same.
        output: annotated MP4 with every frame of the part.
        annotate: draws on a frame; called in a thread of its own.
        max_pixels: as of ``process_video``, like the rest.
        selection: with which the video was analysed.
        ahead: frames held at once, at most, by the decoder and by the encoder.
        stop: asked while no frame comes; the video is then given up.
        progress: told after each frame.

    Returns:
        What was left out of the annotated video, and why there is none; each None if nothing.

    Raises:
        Stopped, VideoError, OSError: as ``process_video``.
    """
    with contextlib.ExitStack() as stack:
        reader = open_reader(path, max_pixels, ahead, selection, writing=True)
        stack.enter_context(reader)
        annotated = stack.enter_context(AnnotatedVideo(output, reader, annotate, ahead))
        is_stopped = reader.watch(stop)
        last = _LastDrawn()
        for item in reader:
            if isinstance(item, Frame) and item.analysed:
                last = _LastDrawn(drawn(item), item.image.shape[:2])
            annotated.put(last.on(item) if isinstance(item, Frame) else item)
            if isinstance(item, Frame):
                _tell(progress, reader, item.index + 1)
            del item  # it may be hundreds of megabytes, and the next is on its way
            if stop():
                raise Stopped
        if is_stopped():
            raise Stopped
        annotated.finish()
        return annotated.note, annotated.fault


def open_reader(
    path: str | os.PathLike, max_pixels: int, ahead: int, selection: Selection, writing: bool
) -> VideoReader | AnimationReader:
    """The reader for a video, animation or live source; arguments as of ``VideoReader``.

    Args:
        path: of it.
        max_pixels: larger frames are refused.
        ahead: frames decoded ahead.
        selection: the part of the video, and which of its frames are analysed.
        writing: deliver sound, and frames that are not analysed, too.

    Raises:
        VideoError: if it cannot be opened.
    """
    if not isinstance(path, LiveSource) and is_animation(path):
        return AnimationReader(path, max_pixels, ahead, selection, all_frames=writing)
    return VideoReader(path, max_pixels, ahead, selection, all_frames=writing, with_audio=writing)


def _tell(progress: Progress, reader: VideoReader | AnimationReader, done: int) -> None:
    progress(done, reader.expected_frames)


def _no_frame(selection: Selection) -> str:
    if not selection.start_s:
        return "no frame in the video stream"
    return f"no frame from {selection.start_s:g} s on"


class _LastDrawn(NamedTuple):
    """What was drawn on the last analysed frame, of a size (H, W); later frames show it too."""

    drawn: Any = None
    size: Sequence[int] = ()

    def on(self, frame: Frame) -> Shown:
        """What a frame shows; nothing where the video has changed its size on the way."""
        fits = tuple(self.size) == frame.image.shape[:2]
        return Shown(frame, self.drawn if fits else None)


class _Loop:
    """Collects frames until a batch is full, then detects and hands them on in order."""

    def __init__(
        self,
        predict: Predict,
        on_frame: OnFrame,
        annotated: AnnotatedVideo | None,
        batch_size: int,
        tell: Callable[[int], None],
    ) -> None:
        self.frames = 0  # that came
        self._tell, self._done = tell, 0  # frames of the part, up to the last one handed on
        self._analysed_frames = 0
        self._first_size = (0, 0)
        self._predict, self._on_frame, self._annotated = predict, on_frame, annotated
        self._batch_size = batch_size
        self._pending: list[Frame | av.Packet] = []
        self._batch: list[Frame] = []
        self._held_bytes = 0
        self._last = _LastDrawn()

    def add(self, item: Frame | av.Packet) -> None:
        """Take the next frame or packet of sound; a full batch is analysed."""
        if not isinstance(item, Frame):
            if self._pending:  # its place is behind them
                self._pending.append(item)
            elif self._annotated is not None:
                self._annotated.put(item)
            return
        self._pending.append(item)
        if not self.frames:
            self._first_size = item.image.shape[:2]
        self.frames += 1
        self._held_bytes += item.image.nbytes
        if item.analysed:
            self._batch.append(item)
        if len(self._batch) == self._batch_size or self._held_bytes >= MAX_HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Analyse the waiting frames, and pass everything on in its original order."""
        pending, batch = self._pending, self._batch
        self._pending, self._batch, self._held_bytes = [], [], 0
        found = iter(predict_frames(self._predict, batch) if batch else ())
        for item in pending:
            if isinstance(item, Frame):
                self._done = item.index + 1
            if isinstance(item, Frame) and item.analysed:
                self._analysed_frames += 1
                faces = next(found)
                drawn = self._on_frame(item, faces)
                self._last = _LastDrawn(faces if drawn is None else drawn, faces.image_size)
            if self._annotated is not None:
                self._annotated.put(self._last.on(item) if isinstance(item, Frame) else item)
        self._tell(self._done)

    def report(self, reader: VideoReader | AnimationReader) -> VideoReport:
        """What was read, analysed and left out; after the last ``flush``."""
        notes = [reader.note] if reader.note else []
        if self._annotated is not None and self._annotated.note:
            notes.append(self._annotated.note)
        if reader.skipped:
            notes.append(f"{reader.skipped} frames came while there was no time for them")
        height, width = self._first_size
        return VideoReport(
            frames=reader.frames,
            analysed_frames=self._analysed_frames,
            fault=reader.fault,
            note="; ".join(notes) or None,
            output_fault=None if self._annotated is None else self._annotated.fault,
            width=width,
            height=height,
            end_s=reader.end_s,
        )

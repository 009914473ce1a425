"""The annotated video: drawn and encoded in a separate thread, named when complete."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np

from comics.files import atomic_path
from comics.video.animation_reader import AnimationReader
from comics.video.background import Consumer
from comics.video.frames import Frame
from comics.video.reader import QUEUE_BYTES, VideoReader, weigher
from comics.video.source import describe_error
from comics.video.writer import VideoWriter

Annotate = Callable[[np.ndarray, Any], np.ndarray]


class Shown(NamedTuple):
    """A frame to be written, and what ``Annotate`` is to draw on it; None: nothing."""

    frame: Frame
    drawn: Any


class AnnotatedVideo:
    """Takes frames and sound packets in order; a context manager.

    The file appears at ``finish``. Where it cannot be encoded, ``fault`` says why, and what is put
    is dropped: the analysis goes on without it.

    Args:
        path: of the MP4.
        reader: of the source.
        annotate: draws on a frame; called in the thread.
        ahead: frames that may wait.

    Attributes:
        fault: why there will be no file; None if there will.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        reader: VideoReader | AnimationReader,
        annotate: Annotate,
        ahead: int,
    ) -> None:
        self.fault: str | None = None
        self._path, self._reader, self._annotate, self._ahead = path, reader, annotate, ahead
        self._is_finished = False

    @property
    def note(self) -> str | None:
        """What was left out of it; None if nothing."""
        return None if self.fault else self._writer.audio_note

    def __enter__(self) -> AnnotatedVideo:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._writer = VideoWriter(temporary, self._reader)
            stack.callback(self._writer.abandon)
            self._encoder = stack.enter_context(
                Consumer(self._write, self._ahead, name="encode", weigh=_weigher(self._ahead))
            )
            self._file = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_finished:
            # Without an exception, the half of a file that there is would get its name
            unfinished = error or _Unfinished()
            self._file.__exit__(type(unfinished), unfinished, trace)

    def put(self, item: Shown | av.Packet) -> None:
        """Add a frame or a packet of sound.

        Raises:
            OSError: if the disk is full.
            Exception: of ``annotate``.
        """
        if self.fault is None:
            with self._encoding():
                self._encoder.put(item)
                if isinstance(item, Shown) and item.frame.image.nbytes > QUEUE_BYTES:
                    self._encoder.drain()  # memory does not hold several

    def finish(self) -> None:
        """Encode what waits and give the file its name; raises as ``put``."""
        if self.fault is None:
            with self._encoding():
                self._encoder.finish()
                self._writer.close()
        if self.fault is None:
            self._file.close()
            self._is_finished = True

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            if error.errno == errno.ENOSPC:  # which concerns all outputs, not this one
                raise OSError(errno.ENOSPC, error.strerror, os.fspath(self._path)) from error
            self.fault = f"the annotated video cannot be written: {describe_error(error)}"

    def _write(self, item: Shown | av.Packet) -> None:
        """Body of the thread."""
        if isinstance(item, av.Packet):
            self._writer.write_audio(item)
            return
        frame, drawn = item
        image = frame.image if drawn is None else self._annotate(frame.image, drawn)
        self._writer.write(image, frame)


class _Unfinished(Exception):
    """The block was left before the end of the video."""


def _weigher(ahead: int) -> Callable[[Shown | av.Packet], float]:
    weigh = weigher(ahead)
    return lambda item: weigh(item.frame if isinstance(item, Shown) else item)

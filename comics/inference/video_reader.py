"""Reading videos and GIFs frame by frame, with a fault report instead of a crash.

Decoding runs in a thread of its own and hands its frames over through a bounded queue, so memory
does not depend on the length of a video.

* Frames are turned upright as the video's display matrix says.
* Presentation times are kept as they are, so a variable frame rate stays variable.
* A video that is cut short is delivered up to the cut, and its fault reported.

Shape letters: H, W height and width of the upright frame.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import numpy as np

# Containers that are opened. Playlists and image sequences are not among them: they name other
# files and network addresses, and a video from a stranger must not make us read those.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegvideo,mpegts,flv,asf,ogg,h264,hevc"
)
FALLBACK_RATE = Fraction(25)  # frames per second, where a file does not say
SHORT_BY = 0.5  # seconds that may be missing at the end before a video counts as cut short
QUEUE_POLL = 0.1  # seconds between looks at whether the reader has been closed


class VideoError(ValueError):
    """A video that cannot be used: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Frame(NamedTuple):
    """One upright frame: [H, W, 3] uint8 RGB, its position in the video, and its time.

    ``pts`` and ``duration`` are in units of the video's time base; ``time_s`` is in seconds since
    the first frame.
    """

    image: np.ndarray
    index: int
    pts: int
    duration: int
    time_s: float


@dataclass
class Reading:
    """What the decoding thread learns on its way; complete once the frames have ended."""

    packets: int = 0
    broken_packets: int = 0
    frames: int = 0
    corrupt_frames: int = 0
    last_end: float = 0.0  # seconds; where the latest packet of any stream ends
    stopped_by: str | None = None


class VideoReader:
    """Frames and sound packets of a video, in the order of the file; a context manager.

    Iterating yields ``Frame`` and ``av.Packet`` (sound). Afterwards ``fault`` says what was wrong.

    Args:
        path: video or GIF.
        max_pixels: larger frames are refused before anything is decoded.
        queue_size: frames decoded ahead.
        step: deliver every ``step``-th frame only.
        with_audio: also deliver the packets of the first sound track.

    Raises:
        VideoError: if the file cannot be opened or holds no video.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        max_pixels: int,
        queue_size: int = 8,
        step: int = 1,
        with_audio: bool = False,
    ) -> None:
        self.path = path
        self._step = step
        self._queue: queue.Queue = queue.Queue(maxsize=queue_size)
        self._closed = threading.Event()
        self._reading = Reading()
        with contextlib.ExitStack() as resources:
            file = resources.enter_context(_open_file(path))
            self._container = resources.enter_context(_open_container(file, path))
            self.stream = _video_stream(self._container, path, max_pixels)
            self.stream.thread_type = "AUTO"
            audio = self._container.streams.audio
            self.audio_stream = audio[0] if with_audio and audio else None
            self._resources = resources.pop_all()
        self._thread = threading.Thread(target=self._decode, name="decode", daemon=True)

    @property
    def rate(self) -> Fraction:
        """Average frames per second."""
        return self.stream.average_rate or self.stream.guessed_rate or FALLBACK_RATE

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of a frame's ``pts``."""
        return self.stream.time_base

    @property
    def frames(self) -> int:
        """Frames decoded so far, delivered or not."""
        return self._reading.frames

    @property
    def fault(self) -> str | None:
        """What was wrong with the video; None if it was sound. Complete after iterating."""
        reading = self._reading
        faults = []
        if reading.stopped_by:
            faults.append(f"reading stopped after frame {reading.frames}: {reading.stopped_by}")
        elif self._is_short():
            faults.append(f"the file ends early, after frame {reading.frames}{self._expected()}")
        if damaged := reading.broken_packets + reading.corrupt_frames:
            faults.append(f"{damaged} frames are damaged or missing")
        return "; ".join(faults) or None

    def __enter__(self) -> VideoReader:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()
        self._resources.close()

    def __iter__(self) -> Iterator[Frame | av.Packet]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _decode(self) -> None:
        """Body of the thread: puts every item, then None, or the exception that ended it."""
        try:
            for item in self._items():
                if not self._put(item):
                    return
            self._put(None)
        except Exception as error:  # of any kind: it belongs to the thread that iterates
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=QUEUE_POLL)
                return True
        return False

    def _items(self) -> Iterator[Frame | av.Packet]:
        numbered = _Numbered(self.time_base)
        for packet in self._packets():
            if packet.stream is self.stream:
                yield from self._frames(packet, numbered)
            elif packet.stream is self.audio_stream and packet.dts is not None:
                yield packet
        if self._reading.stopped_by:  # no end of the stream was seen: get what is held back
            yield from self._frames(None, numbered)

    def _frames(self, packet: av.Packet | None, numbered: _Numbered) -> Iterator[Frame]:
        for decoded in self._decode_packet(packet):
            index = self._reading.frames
            self._reading.frames += 1
            self._reading.corrupt_frames += decoded.is_corrupt
            pts = numbered.next_pts(decoded)
            if index % self._step == 0:
                yield numbered.frame(decoded, index, pts)

    def _packets(self) -> Iterator[av.Packet]:
        try:
            for packet in self._container.demux():
                if packet.size and packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._reading.last_end = max(self._reading.last_end, end)
                self._reading.packets += packet.stream is self.stream and packet.size > 0
                yield packet
        except (av.FFmpegError, OSError) as error:
            self._reading.stopped_by = _describe(error)

    def _decode_packet(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except av.error.EOFError:  # flushed a second time
            return []
        except av.FFmpegError:
            self._reading.broken_packets += 1
            return []

    def _is_short(self) -> bool:
        counted = self.stream.frames  # 0 where the container does not count them
        if counted and self._reading.packets >= counted:
            return False
        missing = self._duration() - self._reading.last_end
        allowed = float(1.5 / self.rate) if counted else SHORT_BY
        return missing > allowed

    def _duration(self) -> float:
        """Where the file says that it ends, in seconds; 0 if it does not say."""
        if self.stream.duration is not None:
            start = self.stream.start_time or 0
            return float((start + self.stream.duration) * self.time_base)
        duration = self._container.duration
        return 0.0 if duration is None else duration / av.time_base

    def _expected(self) -> str:
        return f" of {self.stream.frames}" if self.stream.frames else ""


class _Numbered:
    """Gives frames rising presentation times, also where a file has none or repeats them."""

    def __init__(self, time_base: Fraction) -> None:
        self._time_base = time_base
        self._first: int | None = None
        self._last: int | None = None

    def next_pts(self, frame: av.VideoFrame) -> int:
        pts = frame.pts
        if self._last is not None and (pts is None or pts <= self._last):
            pts = self._last + max(frame.duration or 1, 1)
        self._last = pts or 0
        if self._first is None:
            self._first = self._last
        return self._last

    def frame(self, decoded: av.VideoFrame, index: int, pts: int) -> Frame:
        image = upright(decoded.to_ndarray(format="rgb24"), decoded.rotation)
        time_s = float((pts - self._first) * self._time_base)
        return Frame(image, index, pts, decoded.duration or 0, time_s)


def upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Turn [H, W, 3] counter-clockwise by ``rotation`` degrees, to the nearest quarter turn."""
    return np.ascontiguousarray(np.rot90(image, k=round(rotation / 90) % 4))


def _open_file(path: str | os.PathLike) -> BinaryIO:
    try:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be read: {_describe(error)}") from error
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise VideoError(path, "the file is empty")
    return file


def _open_container(file: BinaryIO, path: str | os.PathLike) -> av.container.InputContainer:
    # A Python file, since a name may hold bytes that are not UTF-8, or look like an FFmpeg URL
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    try:
        return av.open(file, metadata_errors="replace", options=options)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"not a readable video: {_describe(error)}") from error


def _video_stream(container, path: str | os.PathLike, max_pixels: int):
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        raise VideoError(path, "no video stream in the file")
    context = streams[0].codec_context
    if context is None:
        raise VideoError(path, "the video is in a format that this FFmpeg cannot decode")
    if context.width * context.height > max_pixels:
        raise VideoError(
            path,
            f"frames of {context.width}x{context.height} are {context.width * context.height} "
            f"pixels, more than the {max_pixels} allowed (INPUT.MAX_PIXELS)",
        )
    return streams[0]


def _describe(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

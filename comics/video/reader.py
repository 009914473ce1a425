"""Reading videos and GIFs frame by frame, with a fault report instead of a crash.

Decoding runs in a thread of its own and hands its frames over through a bounded queue, so memory
does not depend on the length of a video.

* Frames are turned and mirrored as the video's display matrix says.
* Of several video streams, the one that players show.
* Presentation times are kept as they are, so a variable frame rate stays variable.
* A video that is cut short is delivered up to the cut, and its fault reported.
* Of a part of a video, only that part is decoded, from the nearest key frame before it on.

Shape letters: H, W height and width of the upright frame.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from comics.data.images import too_many_pixels
from comics.data.orientation import SWAPPING, upright
from comics.data.video_files import (
    FrameOrientation,
    PixelAspect,
    other_streams,
    picture_streams,
)
from comics.video.background import Producer
from comics.video.frames import Frame, Selection, VideoError, VideoTooLarge
from comics.video.source import describe_error, open_source

__all__ = ["Frame", "VideoError", "VideoReader"]

FALLBACK_RATE = Fraction(25)  # frames per second, where a file does not say
SHORT_BY = 0.5  # seconds that may be missing at the end before a video counts as cut short
# Seconds before the start of a part to which the reader goes, until it finds a frame before that
# start: files without an index lead to the middle of a group of pictures, whose rest is lost
SEEK_MARGINS = (0.0, 3.0, 15.0)
SOUND_BEHIND = 10.0  # seconds that sound may lie behind the pictures of its time in a file
TIME_SLACK = 1e-6  # seconds; times are rounded floats
QUEUE_BYTES = 2**26  # of frames in a queue; one frame alone may be larger
CHANNELS = 3
SOUND_WEIGHT = 1 / 64  # of a sound packet in a queue; a frame weighs 1 or more
MAX_PIXELS_SLACK = 2  # decoders count whole blocks; this is their limit, the exact one is ours


@dataclass
class Reading:
    """What the decoding thread learns on its way; complete once the frames have ended."""

    packets: int = 0
    broken_packets: int = 0
    frames: int = 0
    corrupt_frames: int = 0
    last_end: float = 0.0  # seconds; where the latest packet of any stream ends
    offset_s: Fraction = Fraction(0)  # where the part starts, on the scale of pts
    reached_end: bool = False  # of the part that is looked at
    end_s: float = 0.0  # seconds since the first frame; where the latest frame delivered ends
    stopped_by: str | None = None


class VideoReader:
    """Frames and sound packets of a video, in the order of the file; a context manager.

    Iterating yields ``Frame`` and ``av.Packet`` (sound). Afterwards ``fault`` says what was wrong.

    Args:
        path: video or GIF; or a ``LiveSource``.
        max_pixels: larger frames are refused before anything is decoded.
        queue_size: frames decoded ahead.
        selection: the part of the video, and which of its frames are analysed.
        all_frames: also deliver the frames of that part that are not analysed.
        with_audio: also deliver the packets of the first sound track.

    Raises:
        VideoError: if the file cannot be opened or holds no video.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        max_pixels: int,
        queue_size: int = 8,
        selection: Selection = Selection(),  # noqa: B008  (it is frozen)
        all_frames: bool = True,
        with_audio: bool = False,
    ) -> None:
        self.path = path
        self._max_pixels = max_pixels
        self._selection, self._all_frames = selection, all_frames
        self._reading = Reading()
        with contextlib.ExitStack() as resources:
            self._container, self._is_live = open_source(path, resources)
            self.stream = _video_stream(self._container, path, max_pixels)
            context = self.stream.codec_context
            frame_bytes = CHANNELS * context.width * context.height
            if frame_bytes > QUEUE_BYTES:  # each thread would hold frames of its own
                context.thread_count = 1
            else:
                self.stream.thread_type = "AUTO"
            self._aspect = PixelAspect(self.stream)
            self._orientation = FrameOrientation()
            self.stream.codec_context.options = {"max_pixels": str(MAX_PIXELS_SLACK * max_pixels)}
            audio = self._container.streams.audio
            self.audio_stream = audio[0] if with_audio and audio else None
            self._resources = resources.pop_all()
        self._producer = Producer(
            self._items(),
            queue_size,
            name="decode",
            weigh=weigher(queue_size),
            may_skip=_is_frame if self._is_live else None,
            on_demand=frame_bytes > QUEUE_BYTES,
        )

    @property
    def rate(self) -> Fraction:
        """Average frames per second."""
        return self.stream.average_rate or self.stream.guessed_rate or FALLBACK_RATE

    @property
    def time_base(self) -> Fraction:
        """Seconds per unit of a frame's ``pts``."""
        time_base = self.stream.time_base
        assert time_base is not None  # FFmpeg sets it of every stream
        return time_base

    @property
    def is_live(self) -> bool:
        """Whether it comes as it happens: it has no end, and frames for which there is no time
        are lost."""
        return self._is_live

    @property
    def frames(self) -> int:
        """Frames of the part that have been decoded so far, delivered or not."""
        return self._reading.frames

    @property
    def expected_frames(self) -> int | None:
        """About how many frames the part has; None where the file does not say how long it is."""
        start, end = self._selection.start_s, self._selection.end_s
        if self._is_live:
            return None
        if self.stream.frames and not start and end is None:
            return self.stream.frames
        length = self._length()
        rate = self.stream.average_rate or self.stream.guessed_rate
        if not length or not rate:
            return None
        stop = length if end is None else min(end, length)
        return max(0, round((stop - start) * rate)) or None

    @property
    def end_s(self) -> float:
        """Seconds from the video's first frame to the end of the latest one decoded."""
        return self._reading.end_s

    @property
    def skipped(self) -> int:
        """Frames of a live source that came while the queue was full."""
        return self._producer.skipped

    @property
    def note(self) -> str | None:
        """What of the file is not looked at; None if nothing."""
        return other_streams(self._container, self.stream)

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

    @property
    def offset_s(self) -> Fraction:
        """Where the part starts, on the scale of ``pts``. Known once there is a frame."""
        return self._reading.offset_s

    def watch(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Ask ``stop`` while no frame comes, and stop once it says True; whether that happened."""
        return self._producer.watch(stop)

    def stop(self) -> None:
        """Let iterating end after the frames that wait."""
        self._producer.stop()

    def __enter__(self) -> VideoReader:
        self._producer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.__exit__()
        self._resources.close()

    def __iter__(self) -> Iterator[Frame | av.Packet]:
        return iter(self._producer)

    def _items(self) -> Iterator[Frame | av.Packet]:
        """Body of the thread."""
        numbered = _Numbered(self.time_base, self._selection, first=self._seek())
        for packet in self._packets():
            if self._producer.is_closed:
                return
            time_s = numbered.packet_time_s(packet)
            if packet.stream is self.stream and not self._reading.reached_end:
                yield from self._frames(packet, numbered)
            elif packet.stream is self.audio_stream and self._is_heard(time_s):
                yield packet
            if self._reading.reached_end and self._is_past(packet, time_s):
                return
        if self._reading.stopped_by:  # no end of the stream was seen: get what is held back
            yield from self._frames(None, numbered)

    def _is_heard(self, time_s: float | None) -> bool:
        """Whether a sound packet belongs to the part."""
        start, end = self._selection.start_s, self._selection.end_s
        if time_s is None:
            return False
        return (not start or time_s >= start) and (end is None or time_s < end)

    def _is_past(self, packet: av.Packet, time_s: float | None) -> bool:
        """Whether no sound of the part comes after this packet; its frames have all been seen."""
        end_s = self._selection.end_s
        if self.audio_stream is None or time_s is None or end_s is None:
            return self.audio_stream is None
        slack = 0 if packet.stream is self.audio_stream else SOUND_BEHIND
        return time_s >= end_s + slack

    def _frames(self, packet: av.Packet | None, numbered: _Numbered) -> Iterator[Frame]:
        for decoded in self._decode_packet(packet):
            pts = numbered.next_pts(decoded)
            time_s = numbered.time_s(pts)
            if numbered.is_before(time_s) or self._is_too_large(decoded):
                continue
            if self._selection.end_s is not None and time_s >= self._selection.end_s:
                self._reading.reached_end = True
                return
            index = self._reading.frames
            self._reading.frames += 1
            self._reading.offset_s = numbered.offset_s
            self._reading.corrupt_frames += decoded.is_corrupt
            self._reading.end_s = time_s + float((decoded.duration or 0) * self.time_base)
            analysed = numbered.picker.picks(index, time_s)
            if analysed or self._all_frames:
                yield self._frame(decoded, index, pts, time_s, analysed)

    def _frame(
        self, decoded: av.VideoFrame, index: int, pts: int, time_s: float, analysed: bool
    ) -> Frame:
        orientation, aspect = self._orientation.of(decoded), self._aspect.now()
        if aspect is not None and orientation in SWAPPING:
            aspect = 1 / aspect
        image = upright(decoded.to_ndarray(format="rgb24"), orientation)
        return Frame(image, index, pts, decoded.duration or 0, time_s, analysed, aspect)

    def _is_too_large(self, decoded: av.VideoFrame) -> bool:
        """Whether a frame is above the limit, though the stream's header was not."""
        too_large = decoded.width * decoded.height > self._max_pixels
        self._reading.broken_packets += too_large
        return too_large

    def _packets(self) -> Iterator[av.Packet]:
        try:
            for packet in self._container.demux():
                if packet.size and packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._reading.last_end = max(self._reading.last_end, end)
                self._reading.packets += packet.stream is self.stream and packet.size > 0
                yield packet
        except (av.FFmpegError, OSError) as error:
            self._reading.stopped_by = describe_error(error)

    def _decode_packet(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except av.error.EOFError:  # flushed a second time
            return []
        except av.FFmpegError:
            self._reading.broken_packets += 1
            return []

    def _seek(self) -> int | None:
        """Go to a key frame before the part; the pts of the video's first frame, where known."""
        start, wanted = self.stream.start_time, self._selection.start_s
        if not wanted or self._is_live or start is None:
            return None
        # The last is before the beginning, where some containers need to be sent to find it
        for margin in (*SEEK_MARGINS, wanted + 1):
            target = start + int((wanted - margin) / self.time_base)
            try:
                self._container.seek(target, stream=self.stream)
                first = next(self._container.decode(self.stream), None)
                self._container.seek(target, stream=self.stream)
            except (av.FFmpegError, OSError):
                continue
            if first is None or first.pts is None:
                continue
            if float((first.pts - start) * self.time_base) <= wanted:
                break
        return start

    def _is_short(self) -> bool:
        if self._is_live or self._reading.reached_end:
            return False
        counted = self.stream.frames  # 0 where the container does not count them
        if counted and self._reading.packets >= counted:
            return False
        missing = self._duration() - self._reading.last_end
        allowed = float(1.5 / self.rate) if counted else SHORT_BY
        return missing > allowed

    def _length(self) -> float:
        """Seconds from its first frame to its end, as the file says; 0 if it does not say."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        duration = self._container.duration
        return 0.0 if duration is None else duration / av.time_base

    def _duration(self) -> float:
        """Where the file says that it ends, in seconds; 0 if it does not say."""
        if self.stream.duration is not None:
            start = self.stream.start_time or 0
            return float((start + self.stream.duration) * self.time_base)
        duration = self._container.duration
        return 0.0 if duration is None else duration / av.time_base

    def _expected(self) -> str:
        whole = not self._selection.start_s and self._selection.end_s is None
        return f" of {self.stream.frames}" if self.stream.frames and whole else ""


class _Numbered:
    """Gives frames rising presentation times, also where a file has none or repeats them.

    Args:
        time_base: seconds per unit of a presentation time.
        selection: what is looked at.
        first: presentation time of the video's first frame; None: of the first that comes.
    """

    def __init__(self, time_base: Fraction, selection: Selection, first: int | None) -> None:
        self.picker = selection.picker()
        self._time_base, self._start_s = time_base, selection.start_s
        self._first = first
        self._last: int | None = None

    def next_pts(self, frame: av.VideoFrame) -> int:
        """Its time in units of the time base, made later than the previous where it is not."""
        pts = frame.pts
        if self._last is not None and (pts is None or pts <= self._last):
            pts = self._last + max(frame.duration or 1, 1)
        self._last = pts or 0
        if self._first is None:
            self._first = self._last
        return self._last

    def time_s(self, pts: int) -> float:
        return float((pts - (self._first or 0)) * self._time_base)

    @property
    def offset_s(self) -> Fraction:
        return (self._first or 0) * self._time_base + Fraction(self._start_s)

    def packet_time_s(self, packet: av.Packet) -> float | None:
        if packet.dts is None:
            return None
        return float(packet.dts * packet.time_base - (self._first or 0) * self._time_base)

    def is_before(self, time_s: float) -> bool:
        return bool(self._start_s) and time_s < self._start_s - TIME_SLACK


def weigher(queue_size: int) -> Callable[[Frame | av.Packet], float]:
    """Weights in a queue of so many frames, so that it also holds ``QUEUE_BYTES`` at most."""

    def weight(item: Frame | av.Packet) -> float:
        if not isinstance(item, Frame):
            return SOUND_WEIGHT
        return max(1, item.image.nbytes * queue_size / QUEUE_BYTES)

    return weight


def _is_frame(item: Frame | av.Packet) -> bool:
    return isinstance(item, Frame)


def _video_stream(
    container: InputContainer, path: str | os.PathLike, max_pixels: int
) -> VideoStream:
    streams = picture_streams(container)
    if not streams:
        if any(stream.codec_context is None for stream in container.streams.video):
            raise VideoError(path, "the video is in a format that this FFmpeg cannot decode")
        raise VideoError(path, "no video stream in the file")
    context = streams[0].codec_context
    if context.width * context.height > max_pixels:
        reason = too_many_pixels(context.width, context.height, max_pixels, frames=True)
        raise VideoTooLarge(path, reason)
    return streams[0]

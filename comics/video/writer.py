"""Writing an annotated video: H.264 in MP4, with the times and the sound of its source.

Times are kept but for their start: the first frame is at 0, whatever its time in the source.

H.264 in 4:2:0 needs even sides: an odd one is padded by repeating its last row or column. The
first sound track is copied, not re-encoded; where MP4 cannot hold it, it is left out.

Shape letters: H, W height and width of the frame.
"""

from __future__ import annotations

import contextlib
import math
import os
from fractions import Fraction
from typing import Final

import av
import cv2
import numpy as np
from av.codec.context import Flags

from comics.video.animation_reader import AnimationReader
from comics.video.frames import Frame
from comics.video.reader import VideoReader

ENCODER: Final = "libx264"
# Visually close to the source, and quick. No B-frames: MP4 stores times in decoding order, and
# would lose how long the last frame is shown when another is decoded after it.
ENCODER_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
# Of the codecs whose header MP4 repeats: without it, the file could not be finished
HEADER_BYTES = {"opus": 19, "flac": 34}
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers for the colour matrix and range that are written


# Largest frame of H.264, in pixels (ITU-T H.264, table A-1, level 6.2); larger ones are shrunk
MOST_PIXELS = 139_264 * 256
# From here on (level 5.1), what the encoder holds at once matters more than its compression
LARGE_PIXELS = 36_864 * 256
FRUGAL_OPTIONS = {"rc-lookahead": "0", "sync-lookahead": "0", "threads": "1", "refs": "1"}


def written_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of an annotated video: even, and no larger than H.264 allows."""
    shrink = min(1.0, math.sqrt(MOST_PIXELS / (height * width)))
    if shrink < 1:
        height, width = max(2, int(height * shrink)), max(2, int(width * shrink))
        return height - height % 2, width - width % 2
    return height + height % 2, width + width % 2


class VideoWriter:
    """Writes an H.264 MP4; opened by the first frame, whose size all others are scaled to.

    Args:
        path: where the frames go; the caller renames it when all went well.
        reader: source of frame rate, time base, pixel shape and sound.
    """

    _video: av.VideoStream

    def __init__(self, path: str | os.PathLike, reader: VideoReader | AnimationReader) -> None:
        self.audio_note: str | None = None
        self._path = os.fspath(path)
        self._reader = reader
        self._container: av.container.OutputContainer | None = None
        self._audio: av.AudioStream | None = None
        self._waiting: list[av.Packet] = []  # sound that comes before the first frame

    def write(self, image: np.ndarray, frame: Frame) -> None:
        """Add an [H, W, 3] uint8 RGB image at the time of ``frame``."""
        container = self._container
        if container is None:
            container = self._open(image.shape[0], image.shape[1], frame.pixel_aspect)
        picture = av.VideoFrame.from_ndarray(self._fitted(image), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=BT709)
        time_base = self._reader.time_base
        picture.pts, picture.duration = frame.pts - self._offset(time_base), frame.duration
        picture.time_base = time_base
        container.mux(self._video.encode(picture))

    def write_audio(self, packet: av.Packet) -> None:
        """Add a packet of the source's sound track as it is."""
        if self._container is None:
            self._waiting.append(packet)
        elif self._audio is not None:
            offset = self._offset(packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - offset
            packet.dts = None if packet.dts is None else packet.dts - offset
            packet.stream = self._audio
            try:
                self._container.mux(packet)
            except av.FFmpegError as error:  # such as times that run backwards
                self._audio = None
                self.audio_note = f"sound cut off: {error.strerror}"

    def close(self) -> None:
        """Flush the encoder and finish the file."""
        if self._container is not None:
            self._container.mux(self._video.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Let go of the file without finishing it; harmless after ``close``."""
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()

    def _offset(self, time_base: Fraction) -> int:
        """What is taken from times: a part of a video starts at 0."""
        return round(self._reader.offset_s / time_base)

    def _open(
        self, height: int, width: int, aspect: Fraction | None
    ) -> av.container.OutputContainer:
        reader = self._reader
        self._size = written_size(height, width)
        options = ENCODER_OPTIONS
        if height * width > LARGE_PIXELS:
            options = options | FRUGAL_OPTIONS
        container = av.open(self._path, "w", format="mp4", options={"movflags": "+faststart"})
        self._container = container
        self._video = container.add_stream(ENCODER, reader.rate, options=options)
        context = self._video.codec_context
        context.height, context.width = self._size
        context.pix_fmt = "yuv420p"
        context.time_base = self._video.time_base = reader.time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        context.flags |= Flags.frame_duration  # keeps how long the last frame is shown
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        self._audio = self._add_audio(container)
        for packet in self._waiting:
            self.write_audio(packet)
        self._waiting.clear()
        return container

    def _add_audio(self, container: av.container.OutputContainer) -> av.AudioStream | None:
        source = self._reader.audio_stream
        if source is None:
            return None
        codec = source.codec_context
        name = codec.codec.canonical_name if codec is not None else "of an unknown kind"
        if name not in container.supported_codecs:
            self.audio_note = f"sound left out: MP4 cannot hold {name}"
            return None
        if len(codec.extradata or b"") < HEADER_BYTES.get(name, 0):
            self.audio_note = f"sound left out: its {name} header is broken"
            return None
        return container.add_stream_from_template(source)

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        height, width = self._size
        short = (height - image.shape[0], width - image.shape[1])
        if set(short) <= {0, 1}:
            return np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

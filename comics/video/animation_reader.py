"""Reading animated pictures that FFmpeg does not decode, by Pillow, as a video.

These are WebP, and GIF in its version of 1987, which says nothing of times: FFmpeg gives its first
frame alone. Memory holds the file as it is (compressed) and a few frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

from PIL import Image

from comics.data.images import to_rgb
from comics.video.background import Producer
from comics.video.frames import Frame, Selection, VideoError

TIME_BASE = Fraction(1, 1000)  # durations are in milliseconds
DEFAULT_DURATION = 100  # milliseconds, of a frame for which the file says 0, as browsers show it
FORMATS = ("WEBP", "GIF")
OLD_GIF = b"GIF87a"
GIF_END = b";"  # the last byte of a whole GIF


def is_animation(path: str | os.PathLike) -> bool:
    """Whether a file is one for this reader, by its content."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except (OSError, ValueError):
        return False
    return head.startswith(OLD_GIF) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


class AnimationReader:
    """Frames of an animated picture, with the interface of ``VideoReader``.

    Args:
        path, max_pixels, queue_size, selection, all_frames: as of ``VideoReader``.

    Raises:
        VideoError: if the file cannot be opened.
    """

    audio_stream = None
    is_live = False
    skipped = 0
    time_base = TIME_BASE

    def __init__(
        self,
        path: str | os.PathLike,
        max_pixels: int,
        queue_size: int = 8,
        selection: Selection = Selection(),  # noqa: B008  (it is frozen)
        all_frames: bool = True,
    ) -> None:
        self.path = path
        self.frames = 0
        self.end_s = 0.0
        self.fault: str | None = None
        self._selection, self._all_frames = selection, all_frames
        try:
            self._picture = Image.open(path, formats=FORMATS)
        except Exception as error:  # Pillow meets broken files in many ways
            raise VideoError(path, f"not a readable animation: {error}") from error
        width, height = self._picture.size
        if width * height > max_pixels:
            self._picture.close()
            raise VideoError(
                path,
                f"frames of {width}x{height} are {width * height} pixels, more than the "
                f"{max_pixels} allowed (INPUT.MAX_PIXELS)",
            )
        self._producer = Producer(self._items(), queue_size, name="decode")

    @property
    def rate(self) -> Fraction:
        """Frames per second of the first frame; times are what counts."""
        return 1 / (_duration(self._picture) * TIME_BASE)

    @property
    def offset_s(self) -> Fraction:
        """As of ``VideoReader``."""
        return Fraction(self._selection.start_s)

    def pixel_aspect(self, height: int) -> None:
        """None: pixels are square."""

    def stop(self) -> None:
        """As of ``VideoReader``."""
        self._producer.stop()

    def __enter__(self) -> AnimationReader:
        self._producer.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._producer.__exit__()
        self._picture.close()

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._producer)

    def _items(self) -> Iterator[Frame]:
        """Body of the thread."""
        selection, picker, pts = self._selection, self._selection.picker(), 0
        count = getattr(self._picture, "n_frames", 1)
        for number in range(count):
            try:
                self._picture.seek(number)
                self._picture.load()
            except Exception as error:  # as above
                self.fault = f"reading stopped after frame {number} of {count}: {error}"
                return
            duration, time_s = _duration(self._picture), float(pts * TIME_BASE)
            if selection.end_s is not None and time_s >= selection.end_s:
                return
            if time_s >= selection.start_s:
                index = self.frames
                self.frames += 1
                self.end_s = time_s + float(duration * TIME_BASE)
                analysed = picker.picks(index, time_s)
                if analysed or self._all_frames:
                    image = to_rgb(self._picture, self.path)
                    yield Frame(image, index, pts, duration, time_s, analysed)
            pts += duration
        if self._picture.format == "GIF" and not _ends_whole(self.path):
            self.fault = f"the file is cut off after frame {count - 1}"


def _ends_whole(path: str | os.PathLike) -> bool:
    """Whether a GIF has its last byte; Pillow takes the frames that there are."""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == GIF_END


def _duration(picture: Image.Image) -> int:
    """How long the current frame is shown, in milliseconds."""
    return round(picture.info.get("duration") or 0) or DEFAULT_DURATION

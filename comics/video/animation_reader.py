"""Reading animated pictures that FFmpeg does not decode, by Pillow, as a video.

These are WebP, PNG and AVIF, and GIF in its version of 1987, which says nothing of times: FFmpeg
gives its first frame alone. Memory holds the file as it is (compressed) and a few frames.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction

from PIL import Image

from comics.data.file_kinds import picture_format, read_head
from comics.data.images import ImageError, TooManyPixels, open_file, open_image, upright_rgb
from comics.video.background import Producer
from comics.video.frames import Frame, Selection, VideoError, VideoTooLarge
from comics.video.reader import QUEUE_BYTES, weigher

TIME_BASE = Fraction(1, 1000)  # durations are in milliseconds
DEFAULT_DURATION = 100  # milliseconds, of a frame for which the file says 0, as browsers show it
FORMATS = ("WEBP", "PNG", "AVIF")
CHANNELS = 3
OLD_GIF = b"GIF87a"
GIF_END = b";"  # the last byte of a whole GIF


def is_animation(path: str | os.PathLike) -> bool:
    """Whether a file is one for this reader, by its content."""
    try:
        head = read_head(path)
    except (OSError, ValueError):
        return False
    return head.startswith(OLD_GIF) or picture_format(head) in FORMATS


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
    note = None
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
        self.expected_frames: int | None = None  # of the part, once the file was asked
        self.end_s = 0.0
        self.fault: str | None = None
        self._selection, self._all_frames = selection, all_frames
        with contextlib.ExitStack() as resources:
            try:
                stream = resources.enter_context(open_file(path))
                self._opened = resources.enter_context(open_image(stream, path))
                self._opened.check_pixels(path, max_pixels)
            except TooManyPixels as error:
                reason = "frames of " + error.reason.replace(" is ", " are ", 1)
                raise VideoTooLarge(path, reason) from error
            except ImageError as error:
                raise VideoError(path, f"not a readable animation: {error.reason}") from error
            self._picture = self._opened.pillow_image
            self._resources = resources.pop_all()
        width, height = self._picture.size
        self._producer = Producer(
            self._items(),
            queue_size,
            name="decode",
            weigh=weigher(queue_size),
            on_demand=CHANNELS * width * height > QUEUE_BYTES,
        )

    @property
    def rate(self) -> Fraction:
        """Frames per second of the first frame; times are what counts."""
        return 1 / (_duration(self._picture) * TIME_BASE)

    @property
    def offset_s(self) -> Fraction:
        """As of ``VideoReader``."""
        return Fraction(self._selection.start_s)

    def watch(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Ask ``stop`` while no frame comes, and stop once it says True; whether that happened."""
        return self._producer.watch(stop)

    def stop(self) -> None:
        """As of ``VideoReader``."""
        self._producer.stop()

    def __enter__(self) -> AnimationReader:
        self._producer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.__exit__()
        self._resources.close()

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._producer)

    def _items(self) -> Iterator[Frame]:
        """Body of the thread."""
        selection, picker, pts = self._selection, self._selection.picker(), 0
        count = getattr(self._picture, "n_frames", 1)
        if not selection.start_s and selection.end_s is None:
            self.expected_frames = count
        for number in range(count):
            if self._producer.is_closed:
                return
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
                    image = upright_rgb(self._opened, self.path)
                    yield Frame(image, index, pts, duration, time_s, analysed)
                    del image
            pts += duration
        if self._opened.is_cut or (self._picture.format == "GIF" and not _ends_whole(self.path)):
            self.fault = f"the file is cut off after frame {count - 1}"


def _ends_whole(path: str | os.PathLike) -> bool:
    """Whether a GIF has its last byte; Pillow takes the frames that there are."""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == GIF_END


def _duration(picture: Image.Image) -> int:
    """How long the current frame is shown, in milliseconds."""
    return round(picture.info.get("duration") or 0) or DEFAULT_DURATION

"""Small pictures of a run's annotated media, for its report, as data URIs.

Shape letters: H, W height and width of an annotated picture or frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from comics.data.images import DEFAULT_MAX_PIXELS
from comics.pages.html_pages import picture_uri
from comics.pages.report_rows import FileRow
from comics.runs.pictures import crop_window
from comics.runs.results_reader import inner_path
from comics.video.frames import Selection, VideoError
from comics.video.reader import VideoReader

FILE_SIDE, FACE_SIDE = 320, 80  # pixels of the long side
QUALITY = 70  # JPEG
FORMATS = ("JPEG", "PNG")  # that media have
SEEK_SLACK = 0.5  # frames; times are rounded

Box = tuple[float, float, float, float]


class MediaPicture:
    """The annotated picture of a file, or the frame of its most suspicious face.

    Args:
        image: RGB, perhaps smaller than the original.
        scale: its width over the original's.
    """

    def __init__(self, image: Image.Image, scale: float) -> None:
        self._image, self._scale = image, scale

    def thumbnail(self) -> str:
        """Of the whole."""
        small = self._image.copy()
        small.thumbnail((FILE_SIDE, FILE_SIDE))
        return picture_uri(small, QUALITY)

    def face(self, box: Box) -> str:
        """Of (x, y, width, height) in the original's pixels, with some margin."""
        x, y, width, height = (edge * self._scale for edge in box)
        size = (self._image.height, self._image.width)
        face = self._image.crop(crop_window((x, y, x + width, y + height), size))
        face.thumbnail((FACE_SIDE, FACE_SIDE))
        return picture_uri(face, QUALITY)


def open_media(folder: Path, row: FileRow, boxes: Sequence[Box]) -> MediaPicture | None:
    """What can be shown of a file; None without a readable output.

    Args:
        folder: of the run.
        row: of the file.
        boxes: (x, y, width, height) of the faces that will be asked for.
    """
    path = inner_path(folder, row.entry.get("output"))
    if path is None:
        return None
    try:
        image = _read_frame(path, row) if row.is_video else _read_picture(path, boxes)
    except (VideoError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # a report without this picture is still one
    if image is None:
        return None
    width = row.size[0] if row.size else image.width
    return MediaPicture(image, image.width / width)


def crop_thumbnail(folder: Path, name: str | None) -> str | None:
    """Of a face's own picture, where the run wrote one."""
    path = inner_path(folder, name)
    if path is None:
        return None
    try:
        image = _read_picture(path, ())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image.thumbnail((FACE_SIDE, FACE_SIDE))
    return picture_uri(image, QUALITY)


def _read_picture(path: Path, boxes: Sequence[Box]) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > DEFAULT_MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels")
        # JPEG decodes to an eighth of its size much faster; faces must keep FACE_SIDE pixels
        smallest = min((max(w, h) for _, _, w, h in boxes if max(w, h) > 0), default=math.inf)
        scale = max(FILE_SIDE / max(width, height), FACE_SIDE / smallest)
        image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
        return image.convert("RGB")


def _read_frame(path: Path, row: FileRow) -> Image.Image | None:
    """The frame of the most suspicious face; the annotated video starts where the part did."""
    wanted = max(0.0, (row.peak_time or row.start_s) - row.start_s)
    for start in dict.fromkeys((wanted, 0.0)):
        with VideoReader(path, DEFAULT_MAX_PIXELS, queue_size=1) as reader:
            early = SEEK_SLACK / float(reader.rate)
        selection = Selection(start_s=max(0.0, start - early))
        with VideoReader(path, DEFAULT_MAX_PIXELS, queue_size=1, selection=selection) as reader:
            for frame in reader:
                return Image.fromarray(frame.image)
    return None

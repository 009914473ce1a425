"""Small pictures of a run's inputs and their faces, for its report, as data URIs.

A run makes them of the pictures as it sees them, nothing drawn on them, and keeps them in its
record. Where the record is gone, as of a run that was moved, they are cut from annotated media.

Shape letters: H, W height and width of an annotated picture or frame.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from comics.data.images import DEFAULT_MAX_PIXELS
from comics.ops.crops import margin_window
from comics.pages.html_pages import picture_uri
from comics.pages.report_rows import FileRow
from comics.runs.pictures import CROP_MARGIN
from comics.runs.records import ImageRecord
from comics.runs.results_reader import inner_path
from comics.runs.state import ENTRIES, STATE_FOLDER
from comics.structures import Faces
from comics.video.frames import Frame, Selection, VideoError
from comics.video.reader import VideoReader

FILE_SIDE, FACE_SIDE = 320, 256  # pixels of the long side; of faces: enough to look closely
SMALL_SIDE = 80  # of faces in tables
QUALITY, FACE_QUALITY = 70, 85  # JPEG
URI_START = "data:image/jpeg;base64,"
FORMATS = ("JPEG", "PNG")  # that media have
SEEK_SLACK = 0.5  # frames; times are rounded

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FacePicture:
    """A face with some of its surroundings.

    Attributes:
        uri: data URI of it.
        drawn_over: whether it was cut from an annotated picture, whose lines go over it.
    """

    uri: str
    drawn_over: bool = False

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        with Image.open(self._content) as image:
            return image.size

    @cached_property
    def small_uri(self) -> str:
        """Data URI of it as tables show it."""
        if max(self.size) <= SMALL_SIDE:
            return self.uri
        with Image.open(self._content) as image:
            small = image.convert("RGB")
        small.thumbnail((SMALL_SIDE, SMALL_SIDE))
        return picture_uri(small, QUALITY)

    @property
    def _content(self) -> io.BytesIO:
        return io.BytesIO(base64.b64decode(self.uri.removeprefix(URI_START)))

    @property
    def is_sound(self) -> bool:
        """Whether it is a JPEG; a record may be a stranger's."""
        try:
            with Image.open(self._content, formats=("JPEG",)) as image:
                return max(image.size) <= FACE_SIDE
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return False


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
        face = self._image.crop(margin_window((x, y, x + width, y + height), size, CROP_MARGIN))
        face.thumbnail((FACE_SIDE, FACE_SIDE))
        return picture_uri(face, FACE_QUALITY)


def make_thumbnails(image: np.ndarray, faces: Faces) -> tuple[str, list[str]]:
    """Data URIs of a picture [H, W, 3] uint8 RGB, and of each of its faces with some margin."""
    size = (image.shape[0], image.shape[1])
    whole = _shrunk(image, FILE_SIDE)
    parts = []
    for box in faces.boxes.tolist():
        left, top, right, bottom = margin_window(box, size, CROP_MARGIN)
        parts.append(_shrunk(image[top:bottom, left:right], FACE_SIDE, FACE_QUALITY))
    return whole, parts


def _shrunk(image: np.ndarray, side: int, quality: int = QUALITY) -> str:
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(edge * scale)) for edge in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return picture_uri(Image.fromarray(np.ascontiguousarray(image)), quality)


class RecordedThumbnails:
    """The thumbnails that a run's record holds.

    Args:
        folder: of the run. Where it has no record, or one of another version, nothing is found.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FOLDER / ENTRIES
        self._places: dict[tuple[str, int | None], int] = {}
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            place = 0
            for line in file:
                # A record that was cut off by a kill, or is no record, has no thumbnails
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    if not line.startswith(b"null"):
                        image = ImageRecord.from_line(line.decode("ascii")).image
                        self._places[image["file_name"], image.get("frame")] = place
                place += len(line)

    def file(self, name: str, frame: int | None) -> str | None:
        """Of the whole picture or frame (by its index); None where there is none."""
        record = self._read(name, frame)
        pictures = None if record is None else record.thumbnails
        return None if pictures is None else pictures[0]

    def face(self, name: str, frame: int | None, key: int) -> str | None:
        """Of a face: in a picture its position, in a frame the number of its track."""
        record = self._read(name, frame)
        pictures = None if record is None else record.thumbnails
        if record is None or pictures is None:
            return None
        if frame is not None:
            tracks = [face.get("track_id") for face in record.faces]
            if key not in tracks:
                return None
            key = tracks.index(key)
        parts = pictures[1]
        return parts[key] if key < len(parts) else None

    def _read(self, name: str, frame: int | None) -> ImageRecord | None:
        place = self._places.get((name, frame))
        if place is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(place)
            record = ImageRecord.from_line(file.readline().decode("ascii"))
        # They go into a page: nothing but a picture may
        told = record.thumbnails
        sound = told is not None and all(uri.startswith(URI_START) for uri in (told[0], *told[1]))
        return record if sound else None


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
    return picture_uri(image, FACE_QUALITY)


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
                if isinstance(frame, Frame):
                    return Image.fromarray(frame.image)
    return None

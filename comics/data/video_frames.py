"""Chosen frames of a clip: a video file, a folder of pictures, or a folder inside a tar archive.

Frames are numbered in the order in which they are shown; times between them play no part, so a
variable frame rate needs no care. Frames are turned and mirrored as the video's display matrix
says, and brought to square pixels. Of several video streams it is the one that players show; side
files of operating systems are no pictures.
A clip that is cut short or damaged is refused as a whole (decision: forgeries are aligned with
their originals frame by frame, and what is left of a damaged clip is not).

Shape letters: H, W height and width of an upright frame.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from comics.data.file_kinds import is_beside, is_side_file
from comics.data.images import (
    DEFAULT_MAX_PIXELS,
    ImageError,
    decode_image,
    read_image,
    too_many_pixels,
)
from comics.data.orientation import upright
from comics.data.video_files import (
    PixelAspect,
    frame_orientation,
    open_container,
    picture_streams,
    square_size,
)

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
Item = TypeVar("Item")
Choice = Callable[[int], Sequence[int]]  # given how many frames, the positions wanted

INSIDE = "::"  # between the path of an archive and the folder inside of it


class ClipError(ValueError):
    """A clip that cannot be used: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_clip(
    path: str | os.PathLike,
    choose: Choice,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> dict[int, np.ndarray]:
    """The frames of a clip that ``choose`` names.

    Args:
        path: of a video, a folder of pictures (in the order of their names, numbers as numbers),
            or ``archive.tar.gz::folder/in/it``.
        choose: given the number of frames, returns the positions wanted, from 0.
        max_pixels: clips of larger frames are refused.

    Returns:
        Position -> [H, W, 3] uint8 RGB, upright, in order.

    Raises:
        ClipError: if the clip cannot be opened, holds no frame, or is damaged or cut short.
    """
    archive, mark, folder = os.fspath(path).partition(INSIDE)
    try:
        if mark:
            return _from_archive(archive, folder, choose, max_pixels)
        if os.path.isdir(path):
            names = sorted(
                (p for p in Path(path).iterdir() if is_picture_name(p.name)),
                key=lambda p: _natural(p.name),
            )
            return _pictures(path, names, choose, lambda p: read_image(p, max_pixels))
    except ImageError as error:
        raise ClipError(path, f"{Path(error.path).name}: {error.reason}") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ClipError(path, f"cannot be read: {_describe(error)}") from error
    return _from_video(path, choose, max_pixels)


def count_frames(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> int:
    """How many frames a clip has; of a video from its packets, without decoding it.

    Raises:
        ClipError: as ``read_clip``, as far as it shows without decoding.
    """
    counted: list[int] = []

    def none_of(count: int) -> list[int]:
        counted.append(count)
        return []

    read_clip(path, none_of, max_pixels)
    return counted[0]


def even_positions(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` positions, the middles of equal parts; all if there are fewer."""
    if wanted >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def random_positions(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """``wanted`` of ``count`` positions without repetition, in order; all if there are fewer."""
    if wanted >= count:
        return list(range(count))
    return sorted(int(position) for position in rng.choice(count, wanted, replace=False))


def is_picture_name(name: str) -> bool:
    """Whether a file of a clip's folder is one of its pictures, by its name."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and not is_side_file(name)


def sequences_in(archive: str | os.PathLike) -> list[str]:
    """Folders of an archive that hold pictures directly, sorted.

    Raises:
        ClipError: if it is not a readable archive.
    """
    try:
        with tarfile.open(archive) as tar:
            names = [PurePosixPath(m.name) for m in tar if m.isfile()]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ClipError(archive, f"not a readable archive: {_describe(error)}") from error
    folders = {str(n.parent) for n in names if is_picture_name(n.name) and not is_beside(n)}
    return sorted(folders, key=_natural)


def _from_archive(
    archive: str, folder: str, choose: Choice, max_pixels: int
) -> dict[int, np.ndarray]:
    with tarfile.open(archive) as tar:
        members = [
            member
            for member in tar
            if member.isfile()
            and str(PurePosixPath(member.name).parent) == folder
            and is_picture_name(PurePosixPath(member.name).name)
        ]
        members.sort(key=lambda member: _natural(member.name))

        def decode(member: tarfile.TarInfo) -> np.ndarray:
            file = tar.extractfile(member)
            assert file is not None  # None only for what is no file
            return decode_image(file.read(), member.name, max_pixels)

        return _pictures(f"{archive}{INSIDE}{folder}", members, choose, decode)


def _pictures(
    path: str | os.PathLike,
    items: Sequence[Item],
    choose: Choice,
    decode: Callable[[Item], np.ndarray],
) -> dict[int, np.ndarray]:
    if not items:
        raise ClipError(path, "no pictures in it")
    return {position: decode(items[position]) for position in sorted(choose(len(items)))}


def _from_video(path: str | os.PathLike, choose: Choice, max_pixels: int) -> dict[int, np.ndarray]:
    count = _count_packets(path, max_pixels)
    wanted = set(choose(count))
    if not wanted:
        return {}
    found, shown = {}, 0
    with _opened(path) as container:
        stream = _video_stream(container, path, max_pixels)
        stream.codec_context.thread_count = 1  # one process per core is parallel enough
        aspect = PixelAspect(stream)
        for position, frame in enumerate(_decoded(container, stream, path)):
            if frame.is_corrupt:
                raise ClipError(path, f"frame {position} is damaged")
            if position in wanted:
                found[position] = _shown(frame, aspect.now())
            shown = position + 1
            if len(found) == len(wanted):
                return found
    raise ClipError(path, f"only {shown} of {count} frames can be decoded")


def _shown(frame: av.VideoFrame, aspect: Fraction | None) -> np.ndarray:
    """[H, W, 3] uint8: what a player shows of a frame."""
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    if aspect is not None:
        height, width = square_size(image.shape[0], image.shape[1], aspect)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return upright(image, frame_orientation(frame))


def _count_packets(path: str | os.PathLike, max_pixels: int) -> int:
    with _opened(path) as container:
        stream = _video_stream(container, path, max_pixels)
        packets = 0
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                if packet.is_corrupt:
                    raise ClipError(path, f"packet {packets} is damaged: the file is cut short")
        except (av.FFmpegError, OSError) as error:
            raise ClipError(path, f"cut short after frame {packets}: {_describe(error)}") from error
        # Other containers state slots of the frame rate, some of which are empty
        if "mp4" in container.format.name and packets < stream.frames:
            raise ClipError(path, f"cut short: {packets} of {stream.frames} frames are there")
    if not packets:
        raise ClipError(path, "no frame in the video")
    return packets


def _decoded(
    container: InputContainer, stream: VideoStream, path: str | os.PathLike
) -> Iterator[av.VideoFrame]:
    try:
        yield from container.decode(stream)
    except (av.FFmpegError, OSError) as error:
        raise ClipError(path, f"a frame cannot be decoded: {_describe(error)}") from error


def _opened(path: str | os.PathLike) -> _Closing:
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed with the container)
    except (OSError, ValueError) as error:
        raise ClipError(path, f"cannot be read: {_describe(error)}") from error
    try:
        return _Closing(open_container(file), file)
    except (av.FFmpegError, OSError, ValueError) as error:
        file.close()
        raise ClipError(path, f"not a readable video: {_describe(error)}") from error


class _Closing:
    """A container and the file below it, closed together."""

    def __init__(self, container: InputContainer, file: BinaryIO) -> None:
        self._container, self._file = container, file

    def __enter__(self) -> InputContainer:
        return self._container

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()


def _video_stream(
    container: InputContainer, path: str | os.PathLike, max_pixels: int
) -> VideoStream:
    streams = picture_streams(container)
    if not streams:
        raise ClipError(path, "no video stream that can be decoded")
    context = streams[0].codec_context
    if context.width * context.height > max_pixels:
        reason = too_many_pixels(context.width, context.height, max_pixels)
        raise ClipError(path, f"frames too large: {reason}")
    return streams[0]


def _natural(name: str) -> list:
    """A key that sorts "frame2" before "frame10"."""
    parts, number = [], ""
    for character in name + "\0":
        if character.isascii() and character.isdigit():
            number += character
            continue
        if number:
            parts.append((0, int(number), ""))
            number = ""
        parts.append((1, 0, character))
    return parts


def _describe(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""What the user names on the command line, expanded to files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from PIL import Image

IMAGE_EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".tga",
        ".mpo",
        ".avif",
    ]
)
VIDEO_EXTENSIONS = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".gif",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".3gp",
        ".flv",
        ".wmv",
        ".ogv",
    ]
)
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class InputFile:
    """One file to look at.

    Attributes:
        path: where it is.
        relative: its name below the folder that was asked for; outputs mirror it.
    """

    path: Path
    relative: PurePath


@dataclass
class ExpandedInputs:
    """The files found, and what could not be looked at: (path, reason)."""

    files: list[InputFile] = field(default_factory=list)
    faults: list[tuple[Path, str]] = field(default_factory=list)


def expand_inputs(
    arguments: Iterable[str | os.PathLike], exclude: Path | None = None
) -> ExpandedInputs:
    """Files named by paths, folders (recursively) and globs, each once, in a stable order.

    A file that is named is taken whatever its extension; in a folder only known image and video
    extensions are. Links are followed, except to a folder that contains the link.

    Args:
        arguments: paths, or patterns with ``*``, ``?``, ``[...]`` and ``**``.
        exclude: a folder that is passed over (outputs of an earlier run).

    Returns:
        ``ExpandedInputs``; paths that do not exist or cannot be read are in its ``faults``.
    """
    found = ExpandedInputs()
    seen: set[str] = set()
    excluded = None if exclude is None else os.path.realpath(exclude)
    for argument in arguments:
        for file in _expand(Path(argument), found.faults, excluded):
            identity = os.path.realpath(file.path)
            if identity not in seen:
                seen.add(identity)
                found.files.append(file)
    return found


def _expand(path: Path, faults: list, excluded: str | None) -> Iterator[InputFile]:
    if os.path.lexists(path):
        yield from _expand_existing(path, faults, excluded)
    elif WILDCARDS & set(str(path)):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            faults.append((path, "no file matches this pattern"))
        for match in matches:
            # "**" also yields the folders on the way; their files are matches of their own
            if not ("**" in str(path) and os.path.isdir(match)):
                yield from _expand_existing(Path(match), faults, excluded)
    else:
        faults.append((path, "no such file or folder"))


def _expand_existing(path: Path, faults: list, excluded: str | None) -> Iterator[InputFile]:
    if path.is_dir():
        yield from _walk(path, path, (), faults, excluded)
    else:
        fault = file_fault(path)
        if fault is None:
            yield InputFile(path, PurePath(path.name))
        else:
            faults.append((path, fault))


def _walk(
    root: Path, folder: Path, parents: tuple[str, ...], faults: list, excluded: str | None
) -> Iterator[InputFile]:
    identity = os.path.realpath(folder)
    if identity == excluded:
        return
    if identity in parents:
        faults.append((folder, "a symbolic link to a folder that contains it"))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        faults.append((folder, error.strerror or str(error)))
        return
    for entry in entries:
        path = folder / entry.name
        if path.is_dir():
            yield from _walk(root, path, (*parents, identity), faults, excluded)
        elif path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS:
            fault = file_fault(path)
            if fault is None:
                yield InputFile(path, path.relative_to(root))
            else:
                faults.append((path, fault))


def file_fault(path: Path) -> str | None:
    """Why ``path`` is not a regular file that can be looked at; None if it is one."""
    try:
        if path.is_file():
            return None
        path.stat()
    except FileNotFoundError:
        return "a symbolic link to nothing" if path.is_symlink() else "no such file"
    except OSError as error:
        return error.strerror or str(error)
    return "a symbolic link that loops" if path.is_symlink() else "not a regular file"


def is_video(path: Path) -> bool:
    """Whether a file is to be read as a video: by its extension; a GIF only if it is animated."""
    extension = path.suffix.lower()
    if extension != ".gif":
        return extension in VIDEO_EXTENSIONS
    try:
        with Image.open(path, formats=["GIF"]) as image:
            return image.is_animated
    except Exception:  # Pillow meets broken files in many ways; the reader of images says how
        return False

"""What the user names on the command line, expanded to files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from comics.data.content import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, content_kind
from comics.data.file_kinds import ANIMATION, VIDEO, is_side_file, is_side_folder
from comics.inference.files import display_name

# Why a file is passed over
SIDE_FILE = "a side file of an operating system"
NO_MEDIA = "neither a picture nor a video"
WILDCARDS = frozenset("*?[")
# Sources that are no files
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.*", re.IGNORECASE | re.DOTALL)
NOT_FETCHED = (
    "an address: nothing is fetched. Save the picture or video as a file and name that (of "
    "addresses, live sources alone are read: rtsp, rtp, srt, udp)"
)
LIVE = re.compile(r"webcam:\d+|(rtsps?|rtp|srt|udp)://.+", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")  # user:password@ of an address: in no output


@dataclass(frozen=True)
class InputFile:
    """One file, or live source, to look at.

    Attributes:
        path: where it is; of a live source only good to be shown.
        relative: its name below the folder that was asked for; outputs mirror it.
        live: the source to be opened where it is no file: "webcam:0", "rtsp://..."; None: a file.
        shard_name: what decides on the shard it belongs to: see ``comics.runs.shards``.
        shown: what it is called where ``path`` is only a copy, as of a file that was fetched; None:
            as ``path``.
    """

    path: Path
    relative: PurePath
    live: str | None = None
    shard_name: str = ""
    shown: str | None = None

    @property
    def name(self) -> str:
        """What outputs call it: printable, and without the credentials of an address."""
        if self.shown is not None:
            return display_name(self.shown)
        return display_name(self.path if self.live is None else CREDENTIALS.sub("", self.live))


@dataclass
class ExpandedInputs:
    """The files found, what could not be looked at, and what was passed over: (path, reason)."""

    files: list[InputFile] = field(default_factory=list)
    faults: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)


def expand_inputs(
    arguments: Iterable[str | os.PathLike],
    exclude: Path | None = None,
    listed: Iterable[str | os.PathLike] = (),
) -> ExpandedInputs:
    """Files named by paths, folders (recursively) and globs, each once, in a stable order.

    A file that is named is taken whatever it is. In a folder, files whose content is that of a
    picture or video are, and those that are called like one; the others are noted as passed over.
    So are side files of operating systems, named or not. Links are followed, except to a folder
    that contains the link.

    Args:
        arguments: paths, patterns with ``*``, ``?``, ``[...]`` and ``**``, or live sources:
            ``webcam:0``, ``rtsp://...``.
        exclude: a folder that is passed over (outputs of an earlier run).
        listed: paths of files and folders only, as lists hold them: a list from a stranger must
            not open cameras or addresses.

    Returns:
        ``ExpandedInputs``; paths that do not exist or cannot be read are in its ``faults``.
    """
    found = ExpandedInputs()
    seen: set[str] = set()
    excluded = None if exclude is None else os.path.realpath(exclude)

    def add(file: InputFile) -> None:
        identity = file.live or os.path.realpath(file.path)
        if identity not in seen:
            seen.add(identity)
            found.files.append(file)

    for argument in arguments:
        if isinstance(argument, str) and LIVE.fullmatch(argument):
            add(_live_source(argument))
            continue
        for file in _expand(argument, found, excluded):
            add(file)
    for name in listed:
        for file in _expand_listed(name, found, excluded):
            add(file)
    return found


def _live_source(source: str) -> InputFile:
    shown = CREDENTIALS.sub("", source)
    relative = PurePath(re.sub(r"[:/]+", "_", shown))
    return InputFile(Path(shown), relative, live=source, shard_name=shown)


def _expand(
    argument: str | os.PathLike, found: ExpandedInputs, excluded: str | None
) -> Iterator[InputFile]:
    path = Path(argument)
    if _exists(path):
        yield from _expand_existing(path, found, excluded)
    elif fault := _address_fault(argument):
        found.faults.append(fault)
    elif WILDCARDS & set(str(path)):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            found.faults.append((path, "no file matches this pattern"))
        for match in matches:
            # "**" also yields the folders on the way; their files are matches of their own
            on_the_way = "**" in str(path) and os.path.isdir(match)
            if not on_the_way and not _is_below(match, excluded):
                yield from _expand_existing(Path(match), found, excluded)
    else:
        found.faults.append((path, "no such file or folder"))


def _is_below(path: str, folder: str | None) -> bool:
    return folder is not None and Path(os.path.realpath(path)).is_relative_to(folder)


def _address_fault(argument: str | os.PathLike) -> tuple[Path, str] | None:
    """What is said of an address; None of what is called otherwise."""
    text = os.fspath(argument)
    if not isinstance(text, str) or not ADDRESS.fullmatch(text):
        return None
    return Path(CREDENTIALS.sub("", text)), NOT_FETCHED


def _expand_listed(
    name: str | os.PathLike, found: ExpandedInputs, excluded: str | None
) -> Iterator[InputFile]:
    path = Path(name)
    if _exists(path):
        yield from _expand_existing(path, found, excluded)
    elif fault := _address_fault(name):
        found.faults.append(fault)
    else:
        found.faults.append((path, "no such file or folder"))


def _exists(path: Path) -> bool:
    """Whether there is an entry of that name; also one that leads nowhere."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name, or half of a surrogate pair
        return False


def _expand_existing(
    path: Path, found: ExpandedInputs, excluded: str | None
) -> Iterator[InputFile]:
    if path.is_dir():
        yield from _walk(path, path, (), found, excluded)
    elif is_side_file(path.name):
        found.passed_over.append((path, SIDE_FILE))
    elif fault := file_fault(path):
        found.faults.append((path, fault))
    else:
        yield InputFile(path, PurePath(path.name), shard_name=str(path))


def _walk(
    root: Path,
    folder: Path,
    parents: tuple[str, ...],
    found: ExpandedInputs,
    excluded: str | None,
) -> Iterator[InputFile]:
    identity = os.path.realpath(folder)
    if identity == excluded:
        return
    if identity in parents:
        found.faults.append((folder, "a symbolic link to a folder that contains it"))
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.faults.append((folder, error.strerror or str(error)))
        return
    for entry in entries:
        path = folder / entry.name
        if path.is_dir():
            if is_side_folder(entry.name):
                found.passed_over.append((path, SIDE_FILE))
            else:
                yield from _walk(root, path, (*parents, identity), found, excluded)
        elif is_side_file(entry.name):
            found.passed_over.append((path, SIDE_FILE))
        elif fault := file_fault(path):
            # A pipe or a socket is no input, unless it is called like one
            if is_media_name(path):
                found.faults.append((path, fault))
            else:
                found.passed_over.append((path, NO_MEDIA))
        elif content_kind(path, named=False) is None:
            found.passed_over.append((path, NO_MEDIA))
        else:
            relative = path.relative_to(root)
            yield InputFile(path, relative, shard_name=relative.as_posix())


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


def is_media_name(path: Path) -> bool:
    """Whether a file is called as pictures or videos are."""
    return path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS


def is_video(path: Path) -> bool:
    """Whether a file is to be read as a video or animation: by its content."""
    if file_fault(path) is not None:  # a pipe would be waited for without end
        return path.suffix.lower() in VIDEO_EXTENSIONS
    return content_kind(path) in (VIDEO, ANIMATION)

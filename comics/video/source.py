"""Opening what frames come from: a file, a webcam, or the address of a camera.

A file is opened by us and handed to FFmpeg as a stream of bytes (``comics.data.video_files``).
A live source is opened by FFmpeg under the name that the user gave, with network protocols only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from typing import BinaryIO

import av

from comics.data.video_files import open_container
from comics.video.frames import VideoError

LIVE_CONTAINERS = "rtsp,mpegts,rtp,sdp"
LIVE_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https"
LIVE_TIMEOUT = 10.0  # seconds without a packet after which a live source has ended
CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")
WEBCAM = re.compile(r"webcam:(\d+)", re.IGNORECASE)
# FFmpeg's device format of a system, and how it calls the camera of a number
WEBCAM_FORMATS = {"Linux": ("video4linux2", "/dev/video{}"), "Darwin": ("avfoundation", "{}")}


class LiveSource(os.PathLike):
    """A webcam ("webcam:0") or the address of a camera ("rtsp://...").

    As a path it is its name without user and password, which belong in no message.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __fspath__(self) -> str:
        return CREDENTIALS.sub("", self.address)


def open_source(
    path: str | os.PathLike, resources: contextlib.ExitStack
) -> tuple[av.container.InputContainer, bool]:
    """The opened container, and whether it is live; ``resources`` closes it.

    Raises:
        VideoError: if it cannot be opened.
    """
    if isinstance(path, LiveSource):
        return resources.enter_context(_open_live(path)), True
    file = resources.enter_context(_open_file(path))
    return resources.enter_context(_open_container(file, path)), False


def describe_error(error: Exception) -> str:
    """What an error says, without the names that FFmpeg gives to its arguments."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _open_file(path: str | os.PathLike) -> BinaryIO:
    try:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be read: {describe_error(error)}") from error
    try:
        is_empty = not file.read(1)
        file.seek(0)
    except OSError as error:
        file.close()
        raise VideoError(path, f"cannot be read: {describe_error(error)}") from error
    if is_empty:
        file.close()
        raise VideoError(path, "the file is empty")
    return file


def _open_container(file: BinaryIO, path: str | os.PathLike) -> av.container.InputContainer:
    try:
        return open_container(file)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, f"not a readable video: {describe_error(error)}") from error


def _open_live(source: LiveSource) -> av.container.InputContainer:
    if webcam := WEBCAM.fullmatch(source.address):
        name, container, options = (*_webcam(source, webcam[1]), {})
    else:
        name, container = source.address, None
        options = {
            "protocol_whitelist": LIVE_PROTOCOLS,
            "format_whitelist": LIVE_CONTAINERS,
            "rtsp_transport": "tcp",  # datagrams that are lost would be damaged frames
        }
    try:
        return av.open(
            name,
            format=container,
            options=options,
            metadata_errors="replace",
            timeout=(LIVE_TIMEOUT, LIVE_TIMEOUT),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(source, f"cannot be opened: {describe_error(error)}") from error


def _webcam(source: LiveSource, number: str) -> tuple[str, str]:
    system = platform.system()
    if system not in WEBCAM_FORMATS:
        raise VideoError(source, f"webcams are not supported on {system}")
    container, pattern = WEBCAM_FORMATS[system]
    return pattern.format(number), container

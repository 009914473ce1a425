"""How long a video says that it is."""

from __future__ import annotations

import os

import av

from comics.data.video_files import open_container
from comics.video.animation_reader import is_animation


def length_s(path: str | os.PathLike) -> float:
    """Seconds that a video's header states; 0 where it states none, or there is no video.

    Animated pictures have none: they are always looked at whole.
    """
    if is_animation(path):
        return 0.0
    try:
        with open(path, "rb") as file, open_container(file) as container:
            return 0.0 if container.duration is None else container.duration / av.time_base
    except (av.FFmpegError, OSError, ValueError):
        return 0.0

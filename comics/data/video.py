"""Writing short clips with a real codec, for data sets and demonstrations.

Shape letters: T frames; H, W their height and width in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from typing import Final

import av
import numpy as np

CODEC: Final = "libx264"
PIXEL_FORMAT = "yuv420p"  # what every player shows


def write_clip(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    *,
    fps: int | Fraction = 25,
    crf: int = 23,
) -> None:
    """Encode frames as H.264 in the container that the file's ending names.

    Args:
        path: such as "clip.mp4".
        frames: [H, W, 3] uint8 RGB each, all of one even height and width.
        fps: frames per second.
        crf: constant rate factor of x264, 0 (lossless) to 51; FaceForensics++ calls 23 high and
            40 low quality.

    Raises:
        ValueError: for no frame, or odd sides, which 4:2:0 cannot hold.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"{path}: a clip needs at least one frame")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: H.264 needs even sides, got {width}x{height}")
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(CODEC, rate=fps, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        for frame in chain([first], iterator):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def pan(pictures: list[np.ndarray], frames_per_picture: int) -> Iterable[np.ndarray]:
    """A camera that moves from picture to picture, by whole pixels so that nothing is resampled.

    Args:
        pictures: [H, W, 3] uint8 RGB of any sizes; all are cut to the smallest H and W.
        frames_per_picture: frames for the way from one picture to the next.
    """
    height = min(picture.shape[0] for picture in pictures) // 2 * 2
    width = min(picture.shape[1] for picture in pictures) // 2 * 2
    strip = np.concatenate([picture[:height, :width] for picture in pictures], axis=1)
    last = strip.shape[1] - width
    for x in np.linspace(0, last, max(1, frames_per_picture * (len(pictures) - 1))).round():
        yield strip[:, int(x) : int(x) + width]

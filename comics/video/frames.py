"""Frames of a video, and which of them are looked at.

Shape letters: H, W height and width of the upright frame.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

GRID_SLACK = 1e-6  # of a slot of the grid; times are rounded floats


class VideoError(ValueError):
    """A video that cannot be used: ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoTooLarge(VideoError):
    """A video whose frames are larger than allowed; nothing has been decoded."""


class Frame(NamedTuple):
    """One upright frame: [H, W, 3] uint8 RGB, its position in the video, and its time.

    ``index`` counts from the first frame of the part that is looked at. ``pts`` and ``duration``
    are in units of the video's time base; ``time_s`` is in seconds since the video's first frame.
    ``analysed``: whether the detector is to see it. ``pixel_aspect``: width of a pixel over its
    height; None: square.
    """

    image: np.ndarray
    index: int  # type: ignore[assignment]  # hides the method of tuples, which is not needed
    pts: int
    duration: int
    time_s: float
    analysed: bool = True
    pixel_aspect: Fraction | None = None


@dataclass(frozen=True)
class Selection:
    """Which part of a video is looked at, and which of its frames are analysed.

    Attributes:
        stride: every ``stride``-th frame is analysed, from the first of the part on.
        max_fps: of these, at most one in every 1 / ``max_fps`` seconds of the video; None: all.
        start_s: frames before are passed over, seconds since the video's first frame.
        end_s: the first frame that is passed over again; None: up to the end.

    Raises:
        ValueError: naming the value that is out of its range.
    """

    stride: int = 1
    max_fps: float | None = None
    start_s: float = 0.0
    end_s: float | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be 1 or more, got {self.stride}")
        if self.max_fps is not None and not 0 < self.max_fps < math.inf:
            raise ValueError(f"max_fps must be above 0, got {self.max_fps}")
        if not 0 <= self.start_s < math.inf:
            raise ValueError(f"start must be 0 seconds or later, got {self.start_s}")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"end ({self.end_s} s) must be after start ({self.start_s} s)")

    def picker(self) -> FramePicker:
        """What decides on the frames of one video."""
        return FramePicker(self)


class FramePicker:
    """Decides, frame after frame, which are analysed; the first always is."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._slot: int | None = None  # of the last analysed frame, on a grid of 1 / max_fps

    def picks(self, index: int, time_s: float) -> bool:
        """Whether this frame is analysed; to be asked once of each, in order."""
        if index % self._selection.stride:
            return False
        if self._selection.max_fps is None:
            return True
        slot = math.floor(time_s * self._selection.max_fps + GRID_SLACK)
        if slot == self._slot:
            return False
        self._slot = slot
        return True

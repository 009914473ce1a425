"""What a run prints while it goes on: a line per file, and bars in a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

EVERY_S = 0.1  # between two drawings of the bar of frames
MAX_NAME = 30  # characters of a video's name, its end


class ProgressBar:
    """Files done, of how many, and the time left; on the standard error, and in a terminal only.

    What an earlier run has finished does not count for the time left. Below it is a bar of the
    video at hand: its frames, and the time left where the file says how long it is.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._frames: tqdm | None = None
        self._title = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_frames()
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int) -> None:
        """So many inputs of so many are done."""
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="file",
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                disable=None,  # unless it is a terminal
            )
        self._end_frames()
        self._bar.update(done - self._bar.n)

    def show_frames(self, name: str, what: str, done: int, total: int | None) -> None:
        """So many frames of a video are done, of about so many.

        Args:
            name: of the video.
            what: becomes of them.
            done: of them.
            total: None: nobody knows how many there are, and so how long it takes.
        """
        title = f"{name[-MAX_NAME:]} {what}"
        if title != self._title:
            self._end_frames()
        if self._frames is None:
            self._title = title
            self._frames = tqdm(
                desc=title,
                total=total,
                unit="frame",
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                position=1,
                mininterval=EVERY_S,
                disable=None,
            )
        self._frames.total = total  # an animation says it once it is open
        self._frames.update(done - self._frames.n)

    def _end_frames(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is None or self._bar.disable:
            say(line)
            return
        with self._bar.external_write_mode(file=sys.stderr):
            say(line)


def say(line: str) -> None:
    """Print a line; a terminal that lacks its letters, or a reader that has left, stops nothing."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:  # such as "| head": what follows goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (open until the process ends)

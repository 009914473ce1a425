"""What a run prints while it goes on: a line per file, and a bar in a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm


class ProgressBar:
    """Files done, of how many, and the time left; on the standard error, and in a terminal only.

    What an earlier run has finished does not count for the time left.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        self._bar.update(done - self._bar.n)

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

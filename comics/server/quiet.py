"""A log that a flood of requests cannot fill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST_KINDS = 1000  # that are remembered


class RepetitionFilter(logging.Filter):
    """Lets a message of each kind through so many times in a period, then counts it.

    The first one of the next period says how many were left out. A kind is the text before its
    arguments are put in, and the logger.

    Args:
        most: messages of a kind in a period.
        period_s: seconds.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        most: int = 60,
        period_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._most, self._period_s, self._clock = most, period_s, clock
        self._kinds: dict[tuple[str, str], list[float]] = {}  # kind -> [period's begin, messages]

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is written."""
        kind, now = (record.name, str(record.msg)), self._clock()
        if len(self._kinds) >= MOST_KINDS and kind not in self._kinds:
            self._kinds.clear()
        counted = self._kinds.setdefault(kind, [now, 0])
        if now - counted[0] >= self._period_s:
            left_out = int(counted[1]) - self._most
            counted[:] = [now, 0]
            if left_out > 0:
                text = record.getMessage()
                record.msg, record.args = f"{text} (and {left_out} more like it before)", ()
        counted[1] += 1
        return counted[1] <= self._most

"""An orderly stop: after SIGTERM or SIGINT the step at hand is finished, then the run ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNAL_EXIT = 128  # a shell reports 128 + n for a process that signal n ended
# torchrun passes a signal on to processes that a scheduler or a terminal has signalled already.
SAME_SIGNAL_SECONDS = 5.0


class StopRequest:
    """Context manager that turns a stop signal into ``requested``.

    A signal that comes some seconds after the first raises ``SystemExit`` at once. Outside the main
    thread of the interpreter signals cannot be caught, and nothing is changed.

    Attributes:
        signum: the first signal received, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._received_at = 0.0
        self._at_once = False
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While this lasts, a signal raises ``SystemExit`` with the status 128 + its number.

        For long work that nothing would be lost of.
        """
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a process that was just forked
            return
        now = time.monotonic()
        repeated = self.signum and now - self._received_at > SAME_SIGNAL_SECONDS
        if self._at_once or repeated:
            raise SystemExit(SIGNAL_EXIT + signum)
        if not self.signum:
            self.signum, self._received_at = signum, now

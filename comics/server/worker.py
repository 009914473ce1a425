"""The one thread that the model works in: uploads are looked at one after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from comics.server.errors import ApiError

POLL_S = 0.5  # how often a waiting request is asked whether its client is still there

Result = TypeVar("Result")
Stop = Callable[[], bool]


class ClientGone(Exception):
    """Nobody waits for the result any more."""


class ModelWorker:
    """Runs jobs in their order, one at a time, in a thread of its own."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._tickets: dict[int, str | None] = {}  # of jobs at work or waiting, in their order
        self._lock = threading.Lock()
        self._count = 0

    async def run(
        self,
        job: Callable[[Stop], Result],
        is_gone: Callable[[], Awaitable[bool]],
        cleanup: Callable[[], object],
        ticket: str | None = None,
    ) -> Result:
        """The result of ``job``; while it is awaited, other requests are served.

        Args:
            job: takes a function that says whether its work has become useless, to be asked now
                and then; its exceptions are passed on.
            is_gone: whether the client is gone; the job is then dropped, or told so.
            cleanup: called once, when the job has ended or was dropped: later than this returns,
                where nobody waited for its end.
            ticket: by which ``ahead`` finds the job.

        Raises:
            ClientGone: if it is.
            ApiError: if the server is being shut down.
        """
        useless = threading.Event()

        def stop() -> bool:
            return useless.is_set() or self._closing.is_set()

        number = self._line_up(ticket)
        try:
            running = self._executor.submit(job, stop)
        except RuntimeError:  # closed
            self._leave(number)
            cleanup()
            raise _shutting_down() from None

        def ended(_: object) -> None:
            self._leave(number)
            cleanup()

        running.add_done_callback(ended)
        waiting = asyncio.wrap_future(running)
        try:
            while True:
                done, _ = await asyncio.wait([waiting], timeout=POLL_S)
                if done:
                    return waiting.result()
                if await is_gone():
                    raise ClientGone
        except asyncio.CancelledError:
            # The job was dropped by close(), or the server ends requests whose time is up: their
            # clients are told so, which takes this task a moment longer
            raise _shutting_down() from None
        finally:
            useless.set()
            waiting.cancel()

    def ahead(self, ticket: str) -> int | None:
        """How many jobs come before that of a ticket; 0: it is at work; None: there is none."""
        with self._lock:
            tickets = list(self._tickets.values())
        return tickets.index(ticket) if ticket in tickets else None

    def _line_up(self, ticket: str | None) -> int:
        with self._lock:
            self._count += 1
            self._tickets[self._count] = ticket
            return self._count

    def _leave(self, number: int) -> None:
        with self._lock:
            self._tickets.pop(number, None)

    def close(self) -> None:
        """Tell the job at hand to end, drop those that wait, and wait for the thread."""
        self._closing.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _shutting_down() -> ApiError:
    return ApiError("shutting_down", "the server is being shut down", {"Retry-After": "30"})

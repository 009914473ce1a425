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

    async def run(
        self,
        job: Callable[[Stop], Result],
        is_gone: Callable[[], Awaitable[bool]],
        cleanup: Callable[[], object],
    ) -> Result:
        """The result of ``job``; while it is awaited, other requests are served.

        Args:
            job: takes a function that says whether its work has become useless, to be asked now
                and then; its exceptions are passed on.
            is_gone: whether the client is gone; the job is then dropped, or told so.
            cleanup: called once, when the job has ended or was dropped: later than this returns,
                where nobody waited for its end.

        Raises:
            ClientGone: if it is.
            ApiError: if the server is being shut down.
        """
        useless = threading.Event()

        def stop() -> bool:
            return useless.is_set() or self._closing.is_set()

        try:
            running = self._executor.submit(job, stop)
        except RuntimeError:  # closed
            cleanup()
            raise _shutting_down() from None
        running.add_done_callback(lambda _: cleanup())
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

    def close(self) -> None:
        """Tell the job at hand to end, drop those that wait, and wait for the thread."""
        self._closing.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


def _shutting_down() -> ApiError:
    return ApiError("shutting_down", "the server is being shut down", {"Retry-After": "30"})

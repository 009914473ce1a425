"""Stages of a pipeline that run in threads of their own, joined by bounded queues.

So decoding, the model, and encoding overlap, while what lies between two of them stays bounded. An
error in any of the threads is raised in the one that uses the stage, and leaving a stage's block,
by an error or by Ctrl-C, ends its thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

POLL = 0.1  # seconds between looks at whether the other side has gone

Item = TypeVar("Item")


class Producer(Generic[Item]):
    """Iterates in a thread of its own, up to ``size`` items ahead; a context manager.

    Args:
        items: what is iterated; its errors are raised where the items are taken.
        size: of the queue.
        name: of the thread.
        may_skip: for sources that do not wait: items for which it is true are dropped while the
            queue is full; None: every item waits for room.

    Attributes:
        skipped: items dropped.
    """

    def __init__(
        self,
        items: Iterable[Item],
        size: int,
        name: str,
        may_skip: Callable[[Item], bool] | None = None,
    ) -> None:
        self.skipped = 0
        self._items, self._may_skip = items, may_skip
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Producer[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                item = self._queue.get(timeout=POLL)
            except queue.Empty:
                if self._closed.is_set():
                    return
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        """Let iterating end after the items that wait; for sources without an end."""
        self._closed.set()

    def _run(self) -> None:
        """Body of the thread: puts every item, then None, or the exception that ended it."""
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(None)
        except Exception as error:  # of any kind: it belongs to the thread that iterates
            self._put(error)

    def _put(self, item: object) -> bool:
        if self._queue.full() and self._may_skip is not None and self._is_skipped(item):
            self.skipped += 1
            return not self._closed.is_set()
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=POLL)
                return True
        return False

    def _is_skipped(self, item: object) -> bool:
        return item is not None and not isinstance(item, Exception) and self._may_skip(item)


class Consumer(Generic[Item]):
    """Calls a function on items, in order, in a thread of its own; a context manager.

    Leaving the block without ``finish`` drops what has not been consumed.

    Args:
        consume: called with every item.
        size: of the queue; ``put`` waits while it is full.
        name: of the thread.
    """

    def __init__(self, consume: Callable[[Item], object], size: int, name: str) -> None:
        self._consume = consume
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Consumer[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()

    def put(self, item: Item) -> None:
        """Hand over an item.

        Raises:
            Exception: the one that an earlier item caused, if any did.
        """
        self._offer((item,))

    def finish(self) -> None:
        """Wait until every item has been consumed; raises as ``put``."""
        self._offer(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _offer(self, item: tuple[Item] | None) -> None:
        while True:
            if self._error is not None:
                raise self._error
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=POLL)
                return

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                with contextlib.suppress(queue.Empty):
                    item = self._queue.get(timeout=POLL)
                    if item is None:
                        return
                    self._consume(item[0])
        except Exception as error:  # of any kind: it belongs to the thread that puts
            self._error = error

"""Stages of a pipeline that run in threads of their own, joined by bounded queues.

Decoding, the model and encoding overlap, while the queues between them stay bounded. An error in
any of the threads is raised in the one that uses the stage, and leaving a stage's block,
by an error or by Ctrl-C, ends its thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

POLL = 0.1  # seconds between looks at whether the other side has gone

Item = TypeVar("Item")


class WeightedQueue(Generic[Item]):
    """A queue that holds items up to a total weight; one item alone may weigh more.

    Args:
        capacity: the total weight.
        weigh: the weight of an item; None: each weighs 1.
    """

    def __init__(self, capacity: float, weigh: Callable[[Item], float] | None = None) -> None:
        self._capacity, self._weigh = capacity, weigh or (lambda _: 1)
        self._items: deque[tuple[Item, float]] = deque()
        self._held = 0.0
        self._changed = threading.Condition()

    def put(self, item: Item, timeout: float | None = 0) -> bool:
        """Add an item; whether the queue had space for it within ``timeout`` seconds."""
        weight = self._weigh(item)
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_space(weight), timeout):
                return False
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify_all()
            return True

    def get(self, timeout: float) -> tuple[Item] | None:
        """The oldest item, in a tuple; None if there was none within ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout):
                return None
            item, weight = self._items.popleft()
            self._held = self._held - weight if self._items else 0.0
            self._changed.notify_all()
            return (item,)

    def _has_space(self, weight: float) -> bool:
        return not self._items or self._held + weight <= self._capacity


class Producer(Generic[Item]):
    """Iterates in a thread of its own, up to ``size`` items ahead; a context manager.

    Args:
        items: what is iterated; its errors are raised where the items are taken.
        size: of the queue: the weight of the items that wait.
        name: of the thread.
        weigh: as of ``WeightedQueue``.
        may_skip: for sources that do not wait: items for which it is true are dropped while the
            queue is full; None: every item waits for space.
        on_demand: begin an item only when the one before has been done with: for items of which
            memory does not hold many.

    Attributes:
        skipped: items dropped.
    """

    def __init__(
        self,
        items: Iterable[Item],
        size: float,
        name: str,
        weigh: Callable[[Item], float] | None = None,
        may_skip: Callable[[Item], bool] | None = None,
        on_demand: bool = False,
    ) -> None:
        self.skipped = 0
        self._on_wait: Callable[[], object] = lambda: None
        self._wanted = threading.Event() if on_demand else None
        self._items, self._may_skip = items, may_skip
        self._queue: WeightedQueue[_Message] = WeightedQueue(size, _message_weights(weigh))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Producer[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            if self._wanted is not None:
                self._wanted.set()
            taken = self._queue.get(POLL)
            if taken is None:
                if self._closed.is_set():
                    return
                self._on_wait()
                continue
            message = taken[0]
            if message.error is not None:
                raise message.error
            if message.is_end:
                return
            item = message.item
            del taken, message  # a frame may be hundreds of megabytes: nothing holds on to it
            yield item
            del item

    def watch(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Ask ``stop`` while no item comes, and stop once it says True; whether that happened."""
        stopped = threading.Event()

        def look() -> None:
            if stop():
                stopped.set()
                self.stop()

        self._on_wait = look
        return stopped.is_set

    @property
    def is_closed(self) -> bool:
        """Whether the consumer has stopped; ``items`` may ask while it skips many."""
        return self._closed.is_set()

    def stop(self) -> None:
        """Let iterating end after the items that wait; for sources without an end."""
        self._closed.set()

    def _run(self) -> None:
        """Body of the thread: puts every item, then the end, or the exception that ended it."""
        try:
            iterator = iter(self._items)
            while self._is_wanted():
                try:
                    item = next(iterator)
                except StopIteration:
                    self._put(_Message(is_end=True))
                    return
                may_be_lost = self._may_skip is not None and self._may_skip(item)
                if not self._put(_Message(item), may_be_lost):
                    return
                del item
        except Exception as error:  # of any kind: it belongs to the thread that iterates
            self._put(_Message(error=error))

    def _is_wanted(self) -> bool:
        """Wait until the next item is wanted; False once the consumer has stopped."""
        while self._wanted is not None and not self._wanted.wait(POLL):
            if self._closed.is_set():
                return False
        if self._wanted is not None:
            self._wanted.clear()
        return True

    def _put(self, message: _Message, may_be_lost: bool = False) -> bool:
        """Whether to go on."""
        if may_be_lost:
            self.skipped += not self._queue.put(message)
            return not self._closed.is_set()
        while not self._closed.is_set():
            if self._queue.put(message, POLL):
                return True
        return False


class Consumer(Generic[Item]):
    """Calls a function on items, in order, in a thread of its own; a context manager.

    Leaving the block without ``finish`` drops what has not been consumed.

    Args:
        consume: called with every item.
        size: of the queue, as of ``Producer``; ``put`` waits while it is full.
        name: of the thread.
        weigh: as of ``WeightedQueue``.
    """

    def __init__(
        self,
        consume: Callable[[Item], object],
        size: float,
        name: str,
        weigh: Callable[[Item], float] | None = None,
    ) -> None:
        self._consume = consume
        self._queue: WeightedQueue[_Message] = WeightedQueue(size, _message_weights(weigh))
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._waiting = 0  # items that are not consumed
        self._counted = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Consumer[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def put(self, item: Item) -> None:
        """Hand over an item.

        Raises:
            Exception: the one that an earlier item caused, if any did.
        """
        with self._counted:
            self._waiting += 1
        self._offer(_Message(item))

    def drain(self) -> None:
        """Wait until every item so far has been consumed; raises as ``put``."""
        with self._counted:
            while self._waiting and self._error is None:
                self._counted.wait(POLL)
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until every item has been consumed; raises as ``put``."""
        self._offer(_Message(is_end=True))
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _offer(self, message: _Message) -> None:
        while True:
            if self._error is not None:
                raise self._error
            if self._queue.put(message, POLL):
                return

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                taken = self._queue.get(POLL)
                if taken is None:
                    continue
                if taken[0].is_end:
                    return
                self._consume(taken[0].item)
                del taken
                with self._counted:
                    self._waiting -= 1
                    self._counted.notify_all()
        except Exception as error:  # of any kind: it belongs to the thread that puts
            self._error = error


@dataclass(frozen=True)
class _Message:
    """What a queue carries: an item, or the end of the stream, or the error that ended it."""

    item: Any = None
    error: Exception | None = None
    is_end: bool = False


def _message_weights(weigh: Callable[[Any], float] | None) -> Callable[[_Message], float]:
    """The weight of a message in the queue: its item's; 0 of an error and of the end."""

    def weight(message: _Message) -> float:
        if message.is_end or message.error is not None:
            return 0
        return 1 if weigh is None else weigh(message.item)

    return weight

"""Workers on this machine: a scanner's process for each, and a thread that feeds it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comics.scale.engines import Task
from comics.scale.shard_worker import ShardWorker

WAIT_S = 0.5


class LocalEngine:
    """See ``comics.scale.engines.Engine``.

    Args:
        workers: 1 or more.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._known: list[ShardWorker] = []

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Engine``; the worker goes on to work."""
        return self._worker(0, settings).describe()

    def run(self, settings: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """See ``Engine``."""
        todo: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            todo.put(task)
        ended: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        stopping = threading.Event()
        workers = [self._worker(n, settings) for n in range(min(self.workers, len(tasks)))]

        def feed(worker: ShardWorker) -> None:
            while not stopping.is_set():
                try:
                    stage, shard = todo.get_nowait()
                except queue.Empty:
                    return
                ended.put(worker.work(stage, shard))

        threads = [threading.Thread(target=feed, args=[worker]) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            left = len(tasks)
            while left:
                try:
                    outcome = ended.get(timeout=WAIT_S)
                    left -= 1
                except queue.Empty:
                    outcome = {}  # so that who waits can stop
                yield outcome
        finally:
            stopping.set()
            for worker, thread in zip(workers, threads, strict=True):
                if thread.is_alive():
                    worker.stop()
                thread.join()

    def close(self) -> None:
        """See ``Engine``."""
        for worker in self._known:
            worker.close()
        self._known = []

    def _worker(self, number: int, settings: Mapping[str, Any]) -> ShardWorker:
        """The worker of a number, with these settings from now on."""
        while len(self._known) <= number:
            self._known.append(ShardWorker(settings))
        self._known[number].settle(settings)
        return self._known[number]

"""Who hands the shards of a job to its workers: processes of this machine, or Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

Task = tuple[str, int]  # stage and number of a shard
ENGINES = ("local", "ray")


class Engine(Protocol):
    """Runs ``comics.scale.shard_worker.ShardWorker`` somewhere.

    Attributes:
        workers: how many there are.
    """

    workers: int

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a worker's ``describe`` says."""

    def run(self, settings: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """The outcome of each task, as ``ShardWorker.work`` tells it, in the order of their ends.

        Now and then an empty one, so that who waits can do other things.
        A task whose worker was killed is given to another. Once the iterator is closed, what is
        under way is given up.
        """

    def close(self) -> None:
        """Let go of the workers."""

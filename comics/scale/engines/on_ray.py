"""Workers on a Ray cluster: an actor pool of Ray Data, which starts them, feeds them, and gives the
shards of those that went down to others.

What travels are numbers of shards and what became of them; paths, pictures and rows go between the
workers and the store. Ray is imported here and nowhere else, when an engine is made.

Source: https://docs.ray.io/en/latest/data/data.html
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comics.scale.engines import Task
from comics.scale.requirements import require
from comics.scale.shard_worker import ShardWorker

MAX_BLOCKS = 10_000  # that the tasks of a stage are cut into; Ray keeps account of each
BLOCK_BYTES = 1 << 20  # of rows
CONNECT_S = 10.0
WAIT_S = 0.5  # between looks at whether the job is to stop
LOCALHOST = "127.0.0.1"  # the dashboard has no password
RAY_ERRORS_SHOWN = 300  # characters


class RayFault(RuntimeError):
    """What Ray itself cannot do."""


class RayEngine:
    """See ``comics.scale.engines.Engine``.

    Args:
        address: of a cluster; None: what $RAY_ADDRESS names, else one is started on this machine.
        workers: how many; None: as many as there are GPUs, or groups of ``cpus``.
        cpus, gpus: of each worker.
        dashboard: of a cluster that is started here, on 127.0.0.1 alone.

    Raises:
        MissingPackage: if Ray is not installed.
        RayFault: if there is no cluster at the address, or it lacks what a worker needs.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        dashboard: bool = False,
    ) -> None:
        require("ray", "--engine ray")
        _reach(address or os.environ.get("RAY_ADDRESS"))
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anybody
        import ray

        self._ray, self._cpus, self._gpus = ray, cpus, gpus
        options: dict[str, Any] = {}
        if address is None and not os.environ.get("RAY_ADDRESS"):  # one is started here
            options = {"include_dashboard": dashboard, "dashboard_host": LOCALHOST}
        try:
            context = ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except Exception as error:  # which is what it raises, among others
            raise RayFault(f"no Ray cluster: {_first_line(error)}") from error
        self.dashboard_url = context.dashboard_url or None
        possible = self._possible()
        if possible < 1:
            self.close()
            raise RayFault(f"no node of the cluster has {_told(cpus, gpus)} for a worker")
        self.workers = min(workers or possible, possible)

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Engine``."""
        task = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(describe)
        try:
            return self._ray.get(task.remote(dict(settings)))
        except self._ray.exceptions.RayError as error:
            raise RayFault(_cause(error)) from error

    def run(self, settings: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """See ``Engine``."""
        ended: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        stopping = threading.Event()

        def collect() -> None:
            try:
                for batch in self._batches(settings, tasks):
                    for text in batch["outcome"]:
                        ended.put(json.loads(str(text)))
                    if stopping.is_set():
                        return
                ended.put(StopIteration())
            except BaseException as error:
                ended.put(error)

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        try:
            while True:
                try:
                    outcome = ended.get(timeout=WAIT_S)
                except queue.Empty:
                    yield {}  # so that who waits can stop
                    continue
                if isinstance(outcome, StopIteration):
                    return
                if isinstance(outcome, BaseException):
                    raise RayFault(_cause(outcome)) from outcome
                yield outcome
        finally:
            stopping.set()

    def close(self) -> None:
        """See ``Engine``."""
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    def _batches(
        self, settings: Mapping[str, Any], tasks: Sequence[Task]
    ) -> Iterator[Mapping[str, Any]]:
        """What the actors return, as it comes."""
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # Rows are numbers of shards and a few words: without this, Ray keeps room for blocks of
        # 128 MiB, and a node with a small store never gets to work
        context.target_max_block_size = BLOCK_BYTES
        rows = [{"stage": stage, "shard": shard} for stage, shard in tasks]
        dataset = data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
        found = dataset.map_batches(
            MeteredWorker,
            fn_constructor_kwargs={"settings": dict(settings)},
            batch_size=1,
            compute=data.ActorPoolStrategy(
                size=min(self.workers, len(rows)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=self._cpus,
            num_gpus=self._gpus or None,
            # Whoever goes down is started again, and so is what it was at
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )
        yield from found.iter_batches(batch_size=None, prefetch_batches=0)

    def _possible(self) -> int:
        """How many workers the nodes have room for."""
        count = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                room = [has.get("CPU", 0.0) // self._cpus if self._cpus else 1]
                if self._gpus:
                    room.append(has.get("GPU", 0.0) // self._gpus)
                count += int(min(room))
        return count


class MeteredWorker(ShardWorker):
    """A worker that tells Ray's metrics (Prometheus) what it does."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        from ray.util import metrics

        tags = ("state",)
        self._shards = metrics.Counter("comics_shards", "shards that ended", tag_keys=tags)
        told = {
            "files": "files looked at",
            "failed": "files that could not be used",
            "quarantined": "files given up, as they end processes",
            "faces": "faces found",
        }
        self._counters = {
            name: metrics.Counter(f"comics_{name}", text) for name, text in told.items()
        }
        self._seconds = metrics.Counter("comics_seconds", "seconds of work on shards")
        self._model = metrics.Counter("comics_model_seconds", "of these, in the model")
        self._rate = metrics.Gauge("comics_files_per_second", "of the latest shard")

    def work(self, stage: str, shard: int) -> dict[str, Any]:
        """See ``ShardWorker``."""
        outcome = super().work(stage, shard)
        self._shards.inc(1, tags={"state": outcome["state"]})
        for name, counter in self._counters.items():
            if outcome.get(name):
                counter.inc(outcome[name])
        seconds = max(outcome["seconds"], 1e-9)
        self._seconds.inc(seconds)
        if outcome["model_seconds"]:
            self._model.inc(outcome["model_seconds"])
        self._rate.set(outcome.get("files", 0) / seconds)
        return outcome


def describe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker's ``describe`` says; run on a node of the cluster."""
    worker = ShardWorker(settings)
    try:
        return worker.describe()
    finally:
        worker.close()


def _reach(address: str | None) -> None:
    """Make sure that somebody listens at HOST:PORT; Ray would try for minutes, and end the process.

    Raises:
        RayFault: if nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise RayFault(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _told(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")


def _cause(error: BaseException) -> str:
    """What went wrong on a node, without Ray's pages about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    absent = [line for line in lines if "No module named 'comics" in line]
    if absent:
        return f"a node has no or another version of comics: {absent[-1]}"
    return f"Ray: {type(error).__name__}: {(lines or [''])[-1][:RAY_ERRORS_SHOWN]}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

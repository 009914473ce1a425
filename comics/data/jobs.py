"""Many independent pieces of work: in parallel, restartable, with progress; bad ones skipped.

A job's result is JSON in a file of its own, written when everything else of the job is on disk. A
run that is started again takes finished results as they are.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from comics.data.dataset import limit_threads
from comics.files import LEFTOVERS, hold_folder, remove_leftovers, write_text

RESULTS = ".jobs"  # folder of the results, below the output
ARGUMENTS = "arguments.json"
MAX_STEM = 80  # characters of a job's name in that of its file; a hash makes it unique


@dataclass(frozen=True)
class JobResult:
    """What became of a job: JSON of its own making, the faults met, whether it was done before."""

    name: str
    value: Any
    faults: tuple[str, ...] = ()
    reused: bool = False


Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Any], tuple[object, Sequence[str]]]


def claim_folder(output: Path, arguments: dict) -> None:
    """Note in ``output`` with which arguments it is made.

    Raises:
        ValueError: if it was begun with others.
    """
    path = output / RESULTS / ARGUMENTS
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != json.loads(json.dumps(arguments)):
            raise ValueError(
                f"{output} was begun with other arguments; finish it with those, or choose another "
                f"folder.\n  there: {json.dumps(found)}\n  now:   {json.dumps(arguments)}"
            )
        return
    write_text(path, json.dumps(arguments))


def run_jobs(
    output: Path,
    work: Work,
    jobs: Sequence[tuple[str, object]],
    *,
    workers: int = 0,
    progress: str = "",
) -> Iterator[JobResult]:
    """Results in the order of ``jobs``.

    Args:
        output: folder that results are kept below.
        work: called with a job; returns JSON and faults. A module's function or object that can
            be pickled. A ``ValueError`` or ``OSError`` of it is a fault, the job has no value, and
            is tried again by the next run.
        jobs: (name, job); names are unique.
        workers: processes; 0 = this one.
        progress: label of a progress bar; "" for none.

    Raises:
        ValueError: for a name that is used twice, a negative number of workers, or a folder in
            which another run works.
    """
    names = [name for name, _ in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two jobs are called {twice!r}")
    runner = _Runner(output / RESULTS, work)
    (output / RESULTS).mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(jobs), desc=progress, disable=not progress)
    with hold_folder(output / RESULTS) as alone, bar:
        if alone:  # the latter are of versions before 0.4
            remove_leftovers(output / RESULTS, patterns=(*LEFTOVERS, "*.part"))
        for result in map_in_processes(runner, jobs, workers):
            bar.update()
            yield result


class _Runner:
    def __init__(self, folder: Path, work: Work) -> None:
        self._folder, self._work = folder, work

    def __call__(self, named: tuple[str, object]) -> JobResult:
        name, job = named
        path = self._path(name)
        try:
            done = json.loads(path.read_text(encoding="utf-8"))
            return JobResult(name, done["value"], tuple(done["faults"]), reused=True)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        try:
            value, faults = self._work(job)
        except (ValueError, OSError) as error:
            return JobResult(name, None, (str(error),))
        content = json.dumps({"name": name, "value": value, "faults": list(faults)})
        write_text(path, content, durable=False)
        return JobResult(name, value, tuple(faults))

    def _path(self, name: str) -> Path:
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-MAX_STEM:]
        return self._folder / f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.json"


def map_in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    chunk: int = 1,
    preloaded: Sequence[str] = (),
) -> Iterator[Result]:
    """``work`` of each item, in their order, by worker processes.

    Args:
        work: a module's function, or an object that can be pickled; sent to each worker once.
        items: what it is called with.
        workers: processes; 0 = this one.
        chunk: items that a worker takes at once.
        preloaded: modules that workers find imported, where the system can do that.

    Raises:
        ValueError: for a negative number of workers.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    if workers == 0:
        yield from map(work, items)
        return
    # Not fork: a copy of a process with running threads may hang
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver" and preloaded:
        context.set_forkserver_preload(list(preloaded))
    with ProcessPoolExecutor(workers, context, _start_worker, (work,)) as pool:
        yield from pool.map(_run, items, chunksize=chunk)


_work: Callable[[Any], Any]  # of a worker process


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    limit_threads()
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(item: Any) -> Any:
    return _work(item)

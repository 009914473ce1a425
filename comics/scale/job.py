"""Conducting a job: list, plan, hand out shards, cut and join long videos, sum up.

Everything that is done is on disk before it counts (``comics.scale.plan``), so the same command
continues after a crash of this process, of workers, or of both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import comics
from comics.data.custody.facts import utc_text
from comics.runs.history import shown_command
from comics.scale.engines import Engine, Task
from comics.scale.listing import Found, check_inputs, list_inputs
from comics.scale.plan import FILES, JobError, JobFolder
from comics.scale.scanner_process import SCANNER
from comics.scale.shard_worker import CLIPS, DONE, FATAL, FAULT, JOIN, SCAN, SKIPPED
from comics.scale.storage import file_system
from comics.scale.tables import FAILED

ROUNDS = 3  # through the shards that a fault of their place left undone
SHOWN_FAULTS = 5
COUNTS = (
    *("files", "ok", "partial", FAILED),
    *("no_face_found", "no_forgery_found", "unclear", "forged_face_found"),
    *("faces", "forged_faces", "unclear_faces", "quarantined"),
)
COUNTED = ("kind", "status", "verdict", "faces", "forged_faces", "unclear_faces", "quarantined")


class SetupError(ValueError):
    """A worker that cannot do this job: its model or software is another, or missing."""


@dataclass(frozen=True)
class JobRequest:
    """What is to be done.

    Attributes:
        output: address of the outputs' folder.
        inputs, listed, column: see ``comics.scale.listing.list_inputs``.
        scanner: arguments of ``FaceScanner``, of which the results depend on all.
        shard_files: files of a shard.
        clip_s: longer videos are cut into clips of so many seconds.
        max_tries: after so many a file that ends processes is given up.
        overwrite: forget a job that is there.
        command: as it was typed.
        threads, stall_s, pause_s, scanner_class: see ``WorkerSettings``.

    Raises:
        ValueError: for a number out of its range, or clips that cut through the grid of
            ``max_fps``.
    """

    output: str
    inputs: Sequence[str] = ()
    listed: Sequence[str] = ()
    column: str | None = None
    scanner: Mapping[str, Any] = field(default_factory=dict)
    shard_files: int = 256
    clip_s: float = 60.0
    max_tries: int = 3
    overwrite: bool = False
    command: Sequence[str] = ()
    threads: int | None = None
    stall_s: float = 300.0
    pause_s: float = 1.0
    scanner_class: str = SCANNER

    def __post_init__(self) -> None:
        for name in ("shard_files", "max_tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not self.clip_s >= 1:
            raise ValueError(f"clips of {self.clip_s:g} s are too short: 1 or more")
        max_fps = self.scanner.get("max_fps")
        if max_fps is not None and abs(self.clip_s * max_fps - round(self.clip_s * max_fps)) > 1e-9:
            raise ValueError(
                f"clips of {self.clip_s:g} s do not hold a whole number of frames at {max_fps:g} a "
                "second, so frames at their ends would be others than in the whole video"
            )

    def settings(self) -> dict[str, Any]:
        """What the results depend on; a job is continued with equal ones only."""
        return {
            "inputs": list(self.inputs),
            "listed": None if not self.listed else _digest(self.listed),
            "scanner": {name: value for name, value in self.scanner.items() if name != "device"},
            "shard_files": self.shard_files,
            "clip_s": self.clip_s,
        }


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended, for now.

    Attributes:
        summary: counts of all files that are done, as in summary.json.
        undone: shards that are left.
        reasons: why, some of them.
        stopped: whether it was asked to stop.
        files, seconds: looked at this time, and how long that took.
        model_share: of the workers' time, the share in which the model was at work, in [0, 1].
    """

    summary: dict[str, int]
    undone: int
    reasons: list[str]
    stopped: bool
    files: int
    seconds: float
    model_share: float


def _digest(listed: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(listed).encode("utf-8", "surrogateescape")).hexdigest()


class _Stopped(Exception):
    """The job was asked to stop."""


def run_job(
    request: JobRequest,
    engine: Engine,
    report: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> JobOutcome:
    """Do a job, or what is left of it.

    Args:
        request: what is to be done.
        engine: hands out the shards.
        report: takes lines of text.
        progress: takes how many files are done, and of how many.
        stop: asked now and then.

    Raises:
        StorageError: if the output folder cannot be written.
        JobError: if it holds another job.
        ListingError: if an input cannot be listed.
        SetupError: if workers lack the model, or differ in it or in the package's version.
    """
    return _Job(request, engine, report, progress, stop).run()


class _Job:
    """See ``run_job``."""

    def __init__(
        self,
        request: JobRequest,
        engine: Engine,
        report: Callable[[str], None],
        progress: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._request, self._engine, self._report = request, engine, report
        self._progress, self._stop = progress, stop
        self._folder = JobFolder(request.output)
        self._worker: dict[str, Any] = {}
        self._reasons: list[str] = []
        self._files, self._busy_s, self._model_s, self._start = 0, 0.0, 0.0, time.monotonic()

    def run(self) -> JobOutcome:
        """Everything, in order."""
        self._folder.check_writable()
        job = self._known() or self._begin()
        self._worker = self._settings(job["provenance"], job["version"])
        self._start = time.monotonic()
        stopped = False
        undone = 0
        try:
            undone = self._scan(job) or self._videos(job)
        except _Stopped:
            stopped = True
            undone = job["shards"] - len(self._folder.done() & set(range(job["shards"])))
        summary = self.summary()
        if not undone and not stopped:
            self._end(job, summary)
        seconds = time.monotonic() - self._start
        share = self._model_s / self._busy_s if self._busy_s else 0.0
        return JobOutcome(
            summary, undone, self._reasons[:SHOWN_FAULTS], stopped, self._files, seconds, share
        )

    def summary(self) -> dict[str, int]:
        """Counts of the files that are done."""
        return count_files(self._folder)

    # Beginning

    def _known(self) -> dict[str, Any] | None:
        """The job that is there, if it is this one."""
        if self._request.overwrite:
            self._folder.clear()
            return None
        job = self._folder.job()
        if job is None:
            return None
        here = self._request.settings()
        different = sorted(name for name in here if job["settings"].get(name) != here[name])
        if different:
            told = "; ".join(f"{n}: {job['settings'].get(n)!r} -> {here[n]!r}" for n in different)
            raise JobError(
                f"{self._folder.root.name} holds a job with other settings: {told}. Choose another "
                "folder, the same settings, or --overwrite"
            )
        if job["version"] != comics.__version__:
            raise JobError(
                f"{self._folder.root.name} holds a job of comics {job['version']}, this is "
                f"{comics.__version__}: go on with that version, or --overwrite"
            )
        return job

    def _begin(self) -> dict[str, Any]:
        """List the inputs and write the plan."""
        request = self._request
        if self._folder.done():
            raise JobError(
                f"{self._folder.root.name} holds outputs, but no job that they are of: choose "
                "another folder, or --overwrite"
            )
        check_inputs(request.inputs)
        told = self._engine.describe(self._settings(None, comics.__version__))
        if "reason" in told:
            raise SetupError(told["reason"])
        found = Found()
        items = list_inputs(
            request.inputs,
            request.listed,
            column=request.column,
            exclude=self._folder.root,
            found=found,
        )
        files, shards = self._folder.write_plan(items, request.shard_files)
        if found.passed_over:
            names = ", ".join(found.examples) + (", ..." if found.passed_over > 5 else "")
            self._report(
                f"Passed over {found.passed_over} (not called like a picture or video): {names}"
            )
        if found.repeated:
            self._report(f"Named more than once: {found.repeated}; each is looked at once")
        if not files:
            raise JobError("no picture or video in the inputs")
        job = {
            "version": comics.__version__,
            "settings": request.settings(),
            "provenance": told["provenance"],
            "files": files,
            "shards": shards,
            "passed_over": found.passed_over,
            "run": {
                "started": utc_text(datetime.now(UTC)),
                "command_line": shown_command(request.command),
                "versions": told["versions"],
            },
        }
        self._folder.write_job(job)
        return job

    def _settings(self, provenance: dict[str, Any] | None, version: str) -> dict[str, Any]:
        request, root = self._request, self._folder.root
        return {
            "output": root.path if root.is_local else request.output,
            "scanner": dict(request.scanner),
            "provenance": provenance,
            "version": version,
            "max_tries": request.max_tries,
            "clip_s": request.clip_s,
            "threads": request.threads,
            "stall_s": request.stall_s,
            "pause_s": request.pause_s,
            "scanner_class": request.scanner_class,
        }

    # Working

    def _scan(self, job: Mapping[str, Any]) -> int:
        """The shards of the plan; how many are left."""
        shards = job["shards"]
        done = self._folder.done()
        todo = [(SCAN, shard) for shard in range(shards) if shard not in done]
        before = job["files"] - sum(self._size(job, shard) for _, shard in todo)
        self._progress(before, job["files"])
        if before:
            self._report(f"Continued: {before} of {job['files']} files are done")
        count = before

        def ended(outcome: Mapping[str, Any]) -> None:
            nonlocal count
            count += self._size(job, outcome["shard"])
            self._progress(min(count, job["files"]), job["files"])

        return self._rounds(todo, ended)

    def _size(self, job: Mapping[str, Any], shard: int) -> int:
        """Files of a shard of the plan."""
        size = job["settings"]["shard_files"]
        return min(size, job["files"] - shard * size)

    def _videos(self, job: Mapping[str, Any]) -> int:
        """Long videos, clip by clip, then each as a whole; how many shards are left."""
        clips = self._folder.plan_clips(job["settings"]["clip_s"])
        if not clips:
            return 0
        done = self._folder.done_clips()
        todo = [(CLIPS, shard) for shard in range(clips) if shard not in done]
        if todo:
            self._report(f"Long videos: {len(todo)} shards of clips")
        if left := self._rounds(todo):
            return left
        first = job["shards"]
        ready = self._folder.done()
        videos = range(first, first + len(self._folder.clip_shards()))
        return self._rounds([(JOIN, shard) for shard in videos if shard not in ready])

    def _rounds(
        self,
        todo: Sequence[Task],
        ended: Callable[[Mapping[str, Any]], None] = lambda outcome: None,
    ) -> int:
        """Hand out tasks until none is left, or the places that fail have had their tries."""
        for _ in range(ROUNDS):
            if not todo:
                break
            left = set(todo)
            self._reasons = []
            for outcome in self._outcomes(todo):
                if outcome["state"] in (DONE, SKIPPED):
                    left.discard((outcome["stage"], outcome["shard"]))
                    ended(outcome)
            todo = sorted(left)
        return len(todo)

    def _outcomes(self, todo: Sequence[Task]) -> Iterator[dict[str, Any]]:
        outcomes = self._engine.run(self._worker, todo)
        try:
            for outcome in outcomes:
                if self._stop():
                    raise _Stopped
                if not outcome:
                    continue
                if outcome["state"] == FATAL:
                    raise SetupError(outcome["reason"])
                if outcome["state"] == FAULT and outcome["reason"] not in self._reasons:
                    self._reasons.append(outcome["reason"])
                    self._report(f"Left for another try: {outcome['reason']}")
                self._files += outcome.get("files", 0)
                self._busy_s += outcome["seconds"]
                self._model_s += outcome["model_seconds"]
                yield outcome
        finally:
            outcomes.close()  # type: ignore[attr-defined]  # engines' are generators

    # Ending

    def _end(self, job: Mapping[str, Any], summary: Mapping[str, int]) -> None:
        """Write the summary, and clean up."""
        weights = job["provenance"].get("weights_sha256")
        told = {} if weights is None else {"weights_sha256": weights}
        self._folder.write_summary(
            {
                "schema_version": "1.0",
                "provenance": job["provenance"],
                "run": job["run"] | {"ended": utc_text(datetime.now(UTC))} | told,
                "summary": {
                    **summary,
                    "complete": True,
                    "pending": 0,
                    "passed_over": job["passed_over"],
                },
            }
        )
        self._folder.delete_leftovers()


def count_files(folder: JobFolder) -> dict[str, int]:
    """Counts of every status and verdict over all parts, as in ``summary`` of results.json."""
    from pyarrow import dataset

    parts = [folder.part(FILES, shard).path for shard in sorted(folder.done())]
    counts = dict.fromkeys(COUNTS, 0)
    if not parts:
        return counts
    found = dataset.dataset(parts, filesystem=file_system(folder.root.place), format="parquet")
    for batch in found.to_batches(columns=list(COUNTED)):
        counts["files"] += len(batch)
        for column in ("status", "verdict"):
            for each in batch.column(column).value_counts().to_pylist():
                if each["values"] in counts:
                    counts[each["values"]] += each["counts"]
        for column in ("faces", "forged_faces", "unclear_faces", "quarantined"):
            counts[column] += sum(value or 0 for value in batch.column(column).to_pylist())
    return counts

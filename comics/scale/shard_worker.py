"""A job, shard by shard: fetch, look, write. Any engine can call it; none is known here.

What can go wrong is kept apart:

* **a file's fault** (broken, gone, forbidden) is a row that says so;
* **a poison file** ends the process that looks at it. That process is not this one; files are then
  looked at one by one until it is known which, and after some tries that one is given up, with a
  row that says why ("quarantined"). If this process goes down with it, the tries that are kept
  beside the job tell the next one;
* **a fault of the place** (disk full, object store away) leaves the shard undone, for another try
  elsewhere or later;
* **a fault of the setup** (another version of the package or model) ends the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from comics.scale.listing import Item
from comics.scale.plan import Clip, JobFolder
from comics.scale.scanner_process import (
    SCANNER,
    ScannerDied,
    ScannerDiskFull,
    ScannerProcess,
    ScannerRefused,
)
from comics.scale.storage import (
    LOCAL,
    Location,
    StorageAbsent,
    StorageDenied,
    StorageError,
    StorageFull,
    fetch,
)
from comics.scale.tables import encode, faces_schema, failed_row, files_schema

SCAN, CLIPS, JOIN = "files", "clips", "join"  # stages of a job
DONE, SKIPPED, FAULT, FATAL = "done", "skipped", "fault", "fatal"  # how a shard ended
CHUNK_FILES = 64  # that are fetched and looked at together
CHUNK_BYTES = 2**28
FETCH_THREADS = 8
MAX_PAUSE_S = 60.0
TEMPORARY = "comics-scale-"
# Of the provenance: where a model runs, which may differ from node to node
PLACE_OF_WORK = ("device", "mixed_precision")


class PlaceFault(Exception):
    """A shard cannot be done here and now."""


class SetupFault(Exception):
    """No shard can be done by this worker."""


@dataclass
class WorkerSettings:
    """What a worker is told; JSON.

    Attributes:
        output: address of the job's folder.
        scanner: arguments of ``FaceScanner``.
        provenance: of the job's model; None: any will do.
        version: of the package; None: any.
        max_tries: after so many a file that ends processes is given up.
        clip_s: longer videos are cut into clips of so many seconds.
        threads: of the networks, on a CPU; None: as many as there are cores.
        stall_s: seconds without a sign of life after which a file counts as poison.
        pause_s: after a fault of the place; doubled with each.
        scanner_class: where the scanner is, "module:name".
    """

    output: str
    scanner: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None
    version: str | None = None
    max_tries: int = 3
    clip_s: float = 60.0
    threads: int | None = None
    stall_s: float = 300.0
    pause_s: float = 1.0
    scanner_class: str = SCANNER


class ShardWorker:
    """Takes shards of a job; a callable class, as Ray Data's ``map_batches`` wants it.

    Args:
        settings: members of ``WorkerSettings``.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = WorkerSettings(**settings)
        self._job = JobFolder(self._settings.output)
        self._process: ScannerProcess | None = None
        self._pause_s = self._settings.pause_s
        self._model_seconds = 0.0
        self._stopping = False
        self._tries: _Tries | None = None
        _remove_orphans()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{os.getpid()}-"))

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """What became of each shard of a batch, as JSON: see ``work``.

        Args:
            batch: columns "stage" and "shard".
        """
        pairs = zip(batch["stage"], batch["shard"], strict=True)
        return {"outcome": [json.dumps(self.work(str(stage), int(n))) for stage, n in pairs]}

    def describe(self) -> dict[str, Any]:
        """What would say so here: {"provenance", "versions"}, or {"reason"} why nothing can."""
        try:
            process = self._scanner()
        except (PlaceFault, SetupFault) as error:
            return {"reason": str(error)}
        return {"provenance": process.provenance, "versions": process.versions}

    def work(self, stage: str, shard: int) -> dict[str, Any]:
        """Do a shard; never raises.

        Returns:
            "stage", "shard", "state" (``DONE``, ``SKIPPED``: it was done, ``FAULT``, ``FATAL``),
            "reason", "node", "pid", "seconds", "model_seconds" and counts of its files and faces.
        """
        start, before = time.monotonic(), self._model_seconds
        counts: dict[str, int] = {}
        state, reason = DONE, None
        try:
            self._scanner()  # whether this worker can do anything at all
            counts = {SCAN: self._scan, CLIPS: self._clips, JOIN: self._join}[stage](shard)
            state = DONE if counts else SKIPPED
            self._pause_s = self._settings.pause_s
        except SetupFault as error:
            state, reason = FATAL, str(error)
        except (PlaceFault, StorageError) as error:
            state, reason = FAULT, str(error)
        except Exception as error:  # a shard must not end its worker, nor that the job
            state, reason = FAULT, f"{type(error).__name__}: {error}"
        if state in (FAULT, FATAL) and self._tries is not None:
            with contextlib.suppress(StorageError):
                self._tries.leave()
        self._tries = None
        if (
            state == FAULT and not self._stopping
        ):  # so that a broken place does not run through all shards
            time.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        return {
            "stage": stage,
            "shard": shard,
            "state": state,
            "reason": reason if reason is None else f"{socket.gethostname()}: {reason}",
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "seconds": time.monotonic() - start,
            "model_seconds": self._model_seconds - before,
            **counts,
        }

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Take other settings, of the same scanner."""
        self._settings = WorkerSettings(**settings)

    def stop(self) -> None:
        """From another thread: give up the shard at hand, and blame no file for it."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the scanner, and delete what was fetched."""
        self._drop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    # Stages

    def _scan(self, shard: int) -> dict[str, int]:
        """Pictures and short videos of a shard of the plan."""
        if self._job.is_done(shard):
            return {}
        items = self._job.items(shard)
        tries = self._tries = self._tries_of(SCAN, shard)
        found: list[dict[str, Any]] = []
        chunks = _chunks(items) if not tries.careful else [[n] for n in range(len(items))]
        for chunk, paths in self._fetched(items, chunks, tries):
            found += self._rows(items, chunk, paths, tries)
        long = [
            (item, row["length_s"])
            for item, row in zip(items, found, strict=True)
            if row["row"] is None
        ]
        if long:
            self._job.write_long(shard, long)
        return self._write(shard, [row for row in found if row["row"] is not None], tries)

    def _clips(self, shard: int) -> dict[str, int]:
        """A shard of clips of one long video."""
        if shard in self._job.done_clips():
            return {}
        clips = self._job.clips(shard)
        tries = self._tries = self._tries_of(CLIPS, shard)
        items = [clips[0].item]
        found: list[tuple[Clip, dict[str, Any]]] = []
        for _, paths in self._fetched(items, [[0]], _NoTries()):
            for number, clip in enumerate(clips):
                if isinstance(paths[0], str):
                    payloads = [_lost(clip, paths[0])]
                else:
                    payloads = self._clip(clip, paths[0], number, tries)
                found += [(clip, payload) for payload in payloads]
        self._job.finish_clips(shard, found)
        tries.forget()
        return {"clips": len(clips)}

    def _join(self, shard: int) -> dict[str, int]:
        """All clips of a video; ``shard``: of the part that its rows go to, behind the plan's."""
        if self._job.is_done(shard):
            return {}
        job = self._job.job()
        assert job is not None  # which is written before any work
        item, shards = self._job.clip_shards()[shard - job["shards"]]
        tries = self._tries = self._tries_of(JOIN, shard)
        payloads = self._folder / "payloads.jsonl"
        try:
            with open(payloads, "w", encoding="ascii") as file:
                file.writelines(text + "\n" for text in self._job.clip_payloads(shards))
        except OSError as error:
            raise PlaceFault(f"{self._folder}: {error.strerror or error}") from error
        request = {"join": {"name": item.name, "payloads": os.fspath(payloads)}}
        answer = self._patiently(request, 0, tries)
        rows = [_failed(item, tries.reason(0), tries.of(0))] if answer is None else answer["rows"]
        return self._write(shard, rows, tries)

    def _write(
        self, shard: int, found: Sequence[Mapping[str, Any]], tries: _Tries
    ) -> dict[str, int]:
        """Write the rows of a shard; how many there are, of what kind."""
        files = [each["row"] for each in found]
        faces = [face for each in found for face in each["faces"]]
        self._job.finish_shard(shard, encode(files, files_schema()), encode(faces, faces_schema()))
        tries.forget()
        return {
            "files": len(files),
            "faces": len(faces),
            "failed": sum(row["status"] == "failed" for row in files),
            "partial": sum(row["status"] == "partial" for row in files),
            "quarantined": sum(bool(row["quarantined"]) for row in files),
        }

    def _tries_of(self, stage: str, shard: int) -> _Tries:
        return _Tries(self._job, stage, shard, self._settings.max_tries)

    # Files

    def _fetched(
        self, items: Sequence[Item], chunks: Sequence[Sequence[int]], tries: _Tries | _NoTries
    ) -> Iterator[tuple[Sequence[int], list[Path | str]]]:
        """Each chunk of items with where they lie, or why they do not; one chunk ahead."""
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            waiting = None
            for chunk in [*chunks, None]:
                coming = None if chunk is None else [
                    pool.submit(self._fetch, items[n], n) for n in chunk
                ]  # fmt: skip
                if waiting is not None:
                    before, futures = waiting
                    paths = [future.result() for future in futures]
                    self._blame_store(items, before, paths, tries)
                    yield before, [str(p) if isinstance(p, StorageError) else p for p in paths]
                    for n, path in zip(before, paths, strict=True):
                        if isinstance(path, Path) and items[n].place != LOCAL:
                            path.unlink(missing_ok=True)
                waiting = None if chunk is None else (chunk, coming or [])

    def _fetch(self, item: Item, number: int) -> Path | StorageError:
        """Where an item lies on this machine; or why it does not."""
        path = os.fsdecode(item.path)
        if item.place == LOCAL:
            return Path(path)
        suffix = PurePath(path).suffix
        suffix = suffix if suffix.isascii() and len(suffix) <= 16 else ""
        target = self._folder / f"{number}{suffix}"
        try:
            fetch(Location(item.place, path, item.name), target)
            if item.modified is not None:
                os.utime(target, (item.modified, item.modified))
        except StorageError as error:
            return error
        return target

    def _blame_store(
        self,
        items: Sequence[Item],
        chunk: Sequence[int],
        paths: Sequence[Path | StorageError],
        tries: _Tries | _NoTries,
    ) -> None:
        """Faults of the store leave the shard undone, until a file has had its tries."""
        for n, fault in zip(chunk, paths, strict=True):
            if isinstance(fault, StorageFull):
                raise PlaceFault(str(fault))
            lasting = isinstance(fault, (StorageAbsent, StorageDenied))
            if isinstance(fault, StorageError) and not lasting and tries.blame(n, str(fault)):
                raise PlaceFault(str(fault))

    def _rows(
        self,
        items: Sequence[Item],
        chunk: Sequence[int],
        paths: Sequence[Path | str],
        tries: _Tries,
    ) -> list[dict[str, Any]]:
        """What is in each item of a chunk: "row", "faces", "length_s"."""
        rows: dict[int, dict[str, Any]] = {}
        here: dict[int, Path] = {}
        for n, path in zip(chunk, paths, strict=True):
            if isinstance(path, Path):
                here[n] = path
            else:
                rows[n] = _failed(items[n], path, tries.of(n))
        together = None
        if here and not tries.careful and not any(map(tries.of, here)):
            with contextlib.suppress(ScannerDied):
                together = self._ask(self._request(items, here))
        if together is not None:
            rows |= dict(zip(here, together["rows"], strict=True))
            return [rows[n] for n in chunk]
        for n, path in here.items():
            answer = self._patiently(self._request(items, {n: path}), n, tries)
            if answer is None:
                rows[n] = _failed(items[n], tries.reason(n), tries.of(n))
            else:
                (rows[n],) = answer["rows"]
                if rows[n]["row"] is not None:
                    rows[n]["row"]["tries"] = tries.of(n)
        return [rows[n] for n in chunk]

    def _request(self, items: Sequence[Item], here: Mapping[int, Path]) -> dict[str, Any]:
        told = [{"path": os.fspath(path), "name": items[n].name} for n, path in here.items()]
        return {"scan": told, "max_length_s": self._settings.clip_s}

    def _clip(
        self, clip: Clip, path: Path | str, number: int, tries: _Tries
    ) -> list[dict[str, Any]]:
        request = {
            "clip": {
                "path": os.fspath(path),
                "name": clip.item.name,
                "start_s": clip.start_s,
                "end_s": clip.end_s,
            }
        }
        answer = self._patiently(request, number, tries)
        return [_lost(clip, tries.reason(number))] if answer is None else answer["payloads"]

    # The scanner

    def _patiently(
        self, request: Mapping[str, Any], number: int, tries: _Tries
    ) -> dict[str, Any] | None:
        """The answer to a request about item ``number``; None once that has had its tries."""
        while tries.begin(number):
            try:
                return self._ask(request)
            except ScannerDied as death:
                tries.blame(number, str(death))
        return None

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = self._scanner()
        if self._stopping:
            raise PlaceFault("stopped")
        try:
            answer = process.ask(request)
        except ScannerDied:
            self._drop()
            if self._stopping:
                raise PlaceFault("stopped") from None
            raise
        except ScannerDiskFull as error:
            raise PlaceFault(f"no space left for temporary files: {error}") from error
        self._model_seconds += answer["model_seconds"]
        return answer

    def _scanner(self) -> ScannerProcess:
        """The scanner, made if there is none."""
        if self._process is None:
            settings = self._settings
            try:
                self._process = ScannerProcess(
                    settings.scanner,
                    settings.threads,
                    settings.stall_s,
                    settings.scanner_class,
                    self._folder,
                )
            except ScannerRefused as error:
                raise SetupFault(str(error)) from error
            except ScannerDied as error:
                raise PlaceFault(f"the model cannot be loaded: {error}") from error
        fault = _mismatch(self._settings, self._process)
        if fault is not None:
            raise SetupFault(fault)
        return self._process

    def _drop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


class _Tries:
    """How often which item of a shard ended a process; beside the job, so that it outlives this.

    Where an earlier worker began the shard and did not end it, items are done one by one, and each
    is noted before it is begun: if this worker goes down too, it is known by which.

    Attributes:
        careful: whether that is so.
    """

    def __init__(self, job: JobFolder, stage: str, shard: int, limit: int) -> None:
        known = job.tries(stage, shard)
        self._job, self._stage, self._shard, self._limit = job, stage, shard, limit
        self._tries = {int(n): count for n, count in known.get("tries", {}).items()}
        self._reasons = {int(n): text for n, text in known.get("reasons", {}).items()}
        self.careful = bool(known.get("begun"))
        at = known.get("at")
        if at is not None:
            self._tries[at] = self._tries.get(at, 0) + 1
            self._reasons[at] = "its worker went down"
        self._at: int | None = None
        self._save()

    def of(self, number: int) -> int:
        """Tries of an item that came to nothing."""
        return self._tries.get(number, 0)

    def reason(self, number: int) -> str:
        """Why it was given up."""
        count = self.of(number)
        return f"given up after {count} {'try' if count == 1 else 'tries'}: {self._reasons[number]}"

    def begin(self, number: int) -> bool:
        """Whether the item is to be tried (again)."""
        if self.of(number) >= self._limit:
            return False
        if self.careful:
            self._at = number
            self._save()
        return True

    def blame(self, number: int, reason: str) -> bool:
        """Count a try of an item that came to nothing; whether it has more."""
        self._tries[number] = self.of(number) + 1
        self._reasons[number] = reason
        self._at = None
        self._save()
        return self.of(number) < self._limit

    def leave(self) -> None:
        """The shard is left in good order, for another try."""
        self._at = None
        self._save(begun=False)

    def forget(self) -> None:
        """The shard is done."""
        self._job.forget_tries(self._stage, self._shard)

    def _save(self, begun: bool = True) -> None:
        self._job.write_tries(
            self._stage,
            self._shard,
            {"begun": begun, "at": self._at, "tries": self._tries, "reasons": self._reasons},
        )


class _NoTries:
    """Of what is tried until it works: the shards of a video's clips share it."""

    def blame(self, number: int, reason: str) -> bool:
        """Always to be tried again."""
        return True


def _mismatch(settings: WorkerSettings, process: ScannerProcess) -> str | None:
    """How a worker's software or model differs from the job's; None if it does not."""
    own = process.versions.get("comics")
    if settings.version is not None and own != settings.version:
        return (
            f"runs comics {own}, the job {settings.version}: install one version on all nodes, and "
            "give the command again"
        )
    if settings.provenance is None:
        return None
    for name in sorted(settings.provenance.keys() | process.provenance.keys()):
        job, here = settings.provenance.get(name), process.provenance.get(name)
        if name not in PLACE_OF_WORK and job != here:
            return f"has another {name} than the job: {json.dumps(here)}, not {json.dumps(job)}"
    return None


def _failed(item: Item, reason: str, tries: int) -> dict[str, Any]:
    return {"row": failed_row(item.name, reason, tries), "faces": [], "length_s": 0.0}


def _lost(clip: Clip, reason: str) -> dict[str, Any]:
    """The payload of a clip of which there is nothing."""
    return {"start_s": clip.start_s, "failed": reason, "report": None, "facts": None}


def _chunks(items: Sequence[Item]) -> list[list[int]]:
    """Positions of items that are fetched and looked at together."""
    chunks: list[list[int]] = []
    held = 0
    for position, item in enumerate(items):
        size = max(item.size, 0)
        if not chunks or len(chunks[-1]) == CHUNK_FILES or held + size > CHUNK_BYTES:
            chunks.append([])
            held = 0
        chunks[-1].append(position)
        held += size
    return chunks


def _remove_orphans() -> None:
    """Delete what killed workers of this machine had fetched."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        pid = folder.name.removeprefix(TEMPORARY).partition("-")[0]
        if pid.isdigit() and not _lives(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True

"""A scanner in a process of its own: what a file does to its decoder, it does to that process.

The two talk in lines of JSON through pipes; the process ends with its parent, however that ends.
It is the only place of a worker that imports PyTorch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

SCANNER = "comics.scale.scanner:FaceScanner"
START_SECONDS = 1800.0  # the first start may export and compile a model
ALIVE_SECONDS = 5.0  # between signs of life
READ_BYTES = 1 << 20
STDERR_TAIL = 4096  # bytes of what a dead process last said
PR_SET_PDEATHSIG = 1  # of Linux' prctl; it means the thread that started the process, so:
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="start-scanner")  # lives as long as this one
OOM_SCORE = "/proc/self/oom_score_adj"


class ScannerDied(Exception):
    """The process ended, or gave no sign of life, while it was asked something."""


class ScannerRefused(Exception):
    """The scanner cannot be made: no model file, no such device."""


class ScannerDiskFull(Exception):
    """There is no room for temporary files on this machine."""


# --- in the worker -------------------------------------------------------------------------------


class ScannerProcess:
    """A scanner, asked through a pipe.

    Args:
        settings: arguments of the scanner; JSON.
        threads: of the networks, on a CPU.
        stall_s: seconds without a sign of life after which it is killed.
        scanner: where its class is, "module:name".
        folder: for its temporary files.

    Attributes:
        provenance: what says so.
        versions: of the package, and of what its verdicts depend on.

    Raises:
        ScannerRefused: naming what is missing.
        ScannerDied: if the process ends while it loads the model.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        threads: int | None = None,
        stall_s: float = 300.0,
        scanner: str = SCANNER,
        folder: str | os.PathLike | None = None,
    ) -> None:
        self._stall_s = stall_s
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (closed with the process)
        environment = dict(os.environ)
        if folder is not None:
            environment["TMPDIR"] = os.fspath(folder)
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._process = _STARTER.submit(_start, environment, self._errors).result()
        self._rest = b""
        try:
            hello = self.ask({"scanner": scanner, "settings": dict(settings)}, START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.provenance: dict[str, Any] = hello["provenance"]
        self.versions: dict[str, str] = hello["versions"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: Mapping[str, Any], stall_s: float | None = None) -> dict[str, Any]:
        """The answer to a request: see ``_answer``.

        Raises:
            ScannerDied, ScannerRefused, ScannerDiskFull: see there. Of the last two the process
                lives on.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise ScannerDied(self._death()) from None
        for line in self._lines(self._stall_s if stall_s is None else stall_s):
            answer = json.loads(line)
            if "alive" in answer:
                continue
            if "refused" in answer:
                raise ScannerRefused(answer["refused"])
            if "disk_full" in answer:
                raise ScannerDiskFull(answer["disk_full"])
            if "failed" in answer:
                raise ScannerDied(answer["failed"])
            return answer
        raise ScannerDied(self._death())

    def kill(self) -> None:
        """End the process at once, from any thread; who waits for its answer is told."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _lines(self, stall_s: float) -> Iterator[bytes]:
        """Lines as they come, until the process ends."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        parts = [self._rest]
        while True:
            whole, mark, rest = parts[-1].partition(b"\n")
            if mark:
                line, self._rest = b"".join([*parts[:-1], whole]), rest
                parts = [rest]
                yield line
                continue
            if not select.select([pipe], [], [], stall_s)[0]:
                self._process.kill()
                raise ScannerDied(f"it gave no sign of life for {stall_s:g} s")
            block = os.read(pipe, READ_BYTES)
            if not block:
                return
            parts.append(block)

    def _death(self) -> str:
        """Why the process ended."""
        code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
                memory = " (too little memory, or killed from outside)" if code == -9 else ""
                return f"its process was ended by {name}{memory}"
        return f"its process ended with code {code}{self._last_words()}"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            end = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, end - STDERR_TAIL))
            lines = self._errors.read().decode("utf-8", "replace").split("\n")
            told = [line.strip() for line in lines if line.strip()]
            return f": {told[-1][:200]}" if told else ""
        return ""


def _start(environment: Mapping[str, str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: never a package that lies in the current folder
        [sys.executable, "-P", "-m", "comics.scale.scanner_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
    )


# --- in the process ------------------------------------------------------------------------------


def main() -> None:
    """Answer requests until there are no more."""
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no answer
    alive = _SignsOfLife(answers)
    scanner = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "scanner" in request:
                scanner = _load(request["scanner"], request["settings"])
                answer = {"provenance": scanner.provenance, "versions": _versions()}
            else:
                answer = _answer(scanner, request, alive)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            answer = {"disk_full" if full else "failed": str(error)}
            if scanner is None:
                answer = {"refused": str(error)}
        except Exception as error:
            kind = "refused" if scanner is None else "failed"
            answer = {kind: f"{type(error).__name__}: {error}" if scanner else str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _load(name: str, settings: Mapping[str, Any]) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(**settings)


def _versions() -> dict[str, str]:
    from comics.runs.history import versions

    return versions()


def _answer(
    scanner: Any, request: Mapping[str, Any], alive: Callable[[], object]
) -> dict[str, Any]:
    """Of "scan", "clip" or "join", what their functions return."""
    before = scanner.model_seconds
    if "scan" in request:
        rows = scanner.scan_items(request["scan"], request["max_length_s"], alive)
        return {"rows": rows, "model_seconds": scanner.model_seconds - before}
    from comics.scale.clips import join_clips, scan_clip

    if "clip" in request:
        clip = request["clip"]
        payloads = scan_clip(
            scanner, clip["path"], clip["name"], clip["start_s"], clip["end_s"], alive
        )
        return {"payloads": payloads, "model_seconds": scanner.model_seconds - before}
    join = request["join"]
    with open(join["payloads"], encoding="ascii") as file:
        found = join_clips(join["name"], scanner.video_options, map(json.loads, file))
    return {"rows": [found._asdict()], "model_seconds": 0.0}


class _SignsOfLife:
    """Says now and then that the process goes on."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers, self._last = answers, time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._last >= ALIVE_SECONDS:
            self._last = now
            self._answers.write('{"alive": true}\n')
            self._answers.flush()


def _end_with_parent() -> None:
    """Die when the parent dies, and, where memory is short, before it (Linux); on Ctrl-C, which a
    terminal sends to all, leave it to the parent to end the work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.platform.startswith("linux"):
        return  # elsewhere the next answer finds nobody to take it
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError), open(OOM_SCORE, "w", encoding="ascii") as file:
        file.write("1000")


if __name__ == "__main__":
    main()

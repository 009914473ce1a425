"""When a run was begun and ended, by which command and with which software: all its parts.

A run may be stopped and continued, by another command or on another machine; each part leaves a
line when it begins and one when it ends in ``.comics/history.jsonl``, so a part that was killed is
told too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import comics
from comics.data.custody.facts import utc_text
from comics.data.file_names import display_name
from comics.inference.files import refuse_links
from comics.runs.inputs import CREDENTIALS

MAX_EARLIER = 100  # parts that are told, the latest
MAX_ARGUMENTS = 10_000  # of a command line that a shell filled in
MAX_BYTES = 64 << 20  # of a history that is read
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "av")
OPTIONAL_PACKAGES = ("c2pa-python", "onnxruntime", "openvino", "pillow-heif")


class RunHistory:
    """The parts of a run, of which this process is the last.

    Args:
        path: of the file; it is made if absent.
        command: the command line, as it was typed; empty: not known.

    Raises:
        OSError: if it cannot be written.
    """

    def __init__(self, path: Path, command: Sequence[str] = ()) -> None:
        refuse_links(path.parent, path.name)
        self._path = path
        self._earlier = _read(path)
        self._part: dict[str, object] = {
            "started": _now(),
            "command_line": shown_command(command),
            "versions": versions(),
        }
        self._add({"begin": self._part})

    def told(
        self, weights_sha256: object = None, trust_list_sha256: str | None = None
    ) -> dict[str, object]:
        """End this part; the member ``run`` of results.json.

        ``started``, ``ended`` (UTC, ISO 8601), ``command_line`` and ``versions`` of this part;
        ``parts``: how many there were; ``earlier_parts``: the same of up to ``MAX_EARLIER`` of
        them, without ``ended`` of one that was killed.

        Args:
            weights_sha256: of the model file.
            trust_list_sha256: of the list of trusted signers.
        """
        ended = _now()
        self._add({"end": ended})
        run: dict[str, object] = {**self._part, "ended": ended}
        if weights_sha256 is not None:
            run["weights_sha256"] = weights_sha256
        if trust_list_sha256 is not None:
            run["trust_list_sha256"] = trust_list_sha256
        run["parts"] = len(self._earlier) + 1
        run["earlier_parts"] = self._earlier[-MAX_EARLIER:]
        return run

    def _add(self, line: Mapping[str, object]) -> None:
        with open(self._path, "a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")


def shown_command(command: Sequence[str]) -> list[str]:
    """The words of a command line: printable, and without the credentials of an address."""
    shown = [CREDENTIALS.sub("", display_name(word)) for word in command[:MAX_ARGUMENTS]]
    if len(command) > MAX_ARGUMENTS:
        shown.append(f"… and {len(command) - MAX_ARGUMENTS} more")
    return shown


def versions() -> dict[str, str]:
    """Of this package, Python, the system and the packages that verdicts depend on."""
    found = {
        "comics": comics.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in (*PACKAGES, *OPTIONAL_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _now() -> str:
    return utc_text(datetime.now(UTC))


def _read(path: Path) -> list[dict[str, object]]:
    """Parts so far; lines that were not written to their end are passed over."""
    parts: list[dict[str, object]] = []
    try:
        if os.path.getsize(path) > MAX_BYTES:
            return []
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if not isinstance(told, dict):
            continue
        if isinstance(told.get("begin"), dict):
            parts.append(told["begin"])
        elif parts and isinstance(told.get("end"), str):
            parts[-1]["ended"] = told["end"]
    return parts

"""What a run says as it trains: console, ``log.txt``, ``metrics.jsonl``, TensorBoard, a bar."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _TqdmHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup_logging(folder: str | os.PathLike | None, main_process: bool = True) -> None:
    """Send the package's messages to the console and, with a folder, to its ``log.txt``.

    Other processes than the main one report warnings and errors only, and on the console only.
    Calling it again replaces what the call before set up.
    """
    package = logging.getLogger("comics")
    for handler in list(package.handlers):
        package.removeHandler(handler)
        handler.close()
    package.setLevel(logging.INFO if main_process else logging.WARNING)
    handlers: list[logging.Handler] = [_TqdmHandler()]
    if folder is not None and main_process:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(folder) / LOG_FILE, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
        package.addHandler(handler)


class RunningMeans:
    """Means of named scalars since the last reading, without waiting for the device at each step.

    A name may be absent from some steps; its mean is over the steps that have it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Count one step's values (scalars; gradients are ignored)."""
        for name, value in values.items():
            value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(value)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def pop(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: self._sums[name].item() / self._counts[name] for name in self._sums}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, so that a window that a checkpoint cuts in two is logged whole."""
        sums = {name: value.item() for name, value in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str) -> None:
        """Continue from ``state_dict``."""
        self._sums = {k: torch.tensor(v, device=device) for k, v in state["sums"].items()}
        self._counts = dict(state["counts"])


class MetricsLog:
    """Numbers by iteration: one JSON object a line, appended; TensorBoard events too if asked.

    Args:
        folder: where ``metrics.jsonl`` (and ``tensorboard/``) go.
        size: length of the file, in bytes, when the run's checkpoint was written (0 for a new run):
            what was written after it is removed.
        iteration: that the run continues after; later TensorBoard events are hidden.
        tensorboard: also write TensorBoard events.

    Raises:
        ImportError: if TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: str | os.PathLike, *, size: int, iteration: int, tensorboard: bool
    ) -> None:
        self._events = _summary_writer(folder, iteration) if tensorboard else None
        self.path = Path(folder) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115  (closed by close)
        truncate_lines(self.path, size)

    def size(self) -> int:
        """Length of the file in bytes, to be stored in a checkpoint."""
        return self.path.stat().st_size

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append one line; a value that is not finite becomes null."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"iteration": iteration, **finite}) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _summary_writer(folder: str | os.PathLike, iteration: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "LOG.TENSORBOARD needs TensorBoard: pip install 'comics-forensics[tensorboard]'"
        ) from error
    return SummaryWriter(os.fspath(Path(folder) / "tensorboard"), purge_step=iteration + 1)


def truncate_lines(path: str | os.PathLike, size: int) -> None:
    """Cut a text file to at most ``size`` bytes, ending after a whole line."""
    with open(path, "r+b") as file:
        kept = file.read(size)
        file.truncate(kept.rfind(b"\n") + 1)


class Progress:
    """A bar with iterations, ETA and the last total loss; only on a terminal.

    Args:
        total: iterations of the whole run.
        initial: iterations already done.
        shown: False on processes that keep quiet.
    """

    def __init__(self, total: int, initial: int, shown: bool) -> None:
        self._bar = tqdm(
            total=total, initial=initial, unit="it", disable=None if shown else True, leave=False
        )

    def advance(self) -> None:
        """One iteration is done."""
        self._bar.update()

    def show(self, values: Mapping[str, float]) -> None:
        """Replace the numbers at the end of the bar."""
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

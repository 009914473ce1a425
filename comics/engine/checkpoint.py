"""Training checkpoints: written whole or not at all, read without running code.

A checkpoint is a dict of tensors, lists and plain values, saved by ``torch.save`` and read by
``torch.load(weights_only=True)``. ``comics.engine.trainer`` decides what is in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from comics.files import LEFTOVERS, atomic_path, hold_folder, remove_leftovers

logger = logging.getLogger(__name__)

FORMAT = 1  # raised when an old checkpoint can no longer be resumed
_NAME = re.compile(r"checkpoint_(\d+)\.pt")
# What killed runs leave half written, today's and those of versions before 0.4
HALF_WRITTEN = (*LEFTOVERS, ".checkpoint_*.pt.*", ".model_*.safetensors.*", ".config.yaml.partial")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the file and the fault."""


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: to a temporary file beside it, flushed to the disk, then renamed.

    Raises:
        CheckpointError: if it cannot be written (disk full, no permission). What was at ``path``
            is still there, and the temporary file is gone.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(dict(state), file)
    except BaseException as error:
        fault = _os_error(error)
        if fault is None:
            raise
        raise CheckpointError(_write_fault(path, fault)) from error


@contextlib.contextmanager
def hold_run(folder: str | os.PathLike, subfolders: Sequence[str] = ()) -> Iterator[None]:
    """Keep other runs out of a run's folder until the block ends; clear what killed runs left.

    Args:
        folder: of the run; made if absent.
        subfolders: folders in it that may hold such files too.

    Raises:
        FolderInUse: if another run works there.
        OSError: if the folder cannot be made or written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with hold_folder(folder) as alone:
        count = remove_leftovers(folder, subfolders, HALF_WRITTEN) if alone else 0
        if count:
            logger.info("%s: deleted %d files that a killed run left half written", folder, count)
        yield


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind ``error``: PyTorch hides it under a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write_fault(path: Path, fault: OSError) -> str:
    reason = "the disk is full" if fault.errno == errno.ENOSPC else fault.strerror or str(fault)
    return f"could not write checkpoint {path}: {reason}; earlier checkpoints are intact"


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, checking every stored checksum.

    Raises:
        FileNotFoundError: if there is none.
        CheckpointError: if it is truncated, damaged, of another format, or holds anything but
            tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch does not check the CRCs that it writes
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: bad checksum in {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # damage surfaces as many types: zip, zlib, pickle, runtime errors
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}, but {found!r}")
    return state


class CheckpointFolder:
    """The numbered checkpoints of one run.

    Args:
        folder: where ``checkpoint_<iteration>.pt`` are.
        keep: so many of the newest are kept; at least the last always is, and the best one too.
    """

    def __init__(self, folder: str | os.PathLike, keep: int) -> None:
        self.folder = Path(folder)
        self.keep = max(keep, 1)

    def path(self, iteration: int) -> Path:
        """Where the checkpoint after that many iterations is, or would be."""
        return self.folder / f"checkpoint_{iteration:08d}.pt"

    def iterations(self) -> list[int]:
        """Iterations that have a checkpoint, ascending."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("checkpoint_*.pt"))
        return sorted(int(match.group(1)) for match in names if match)

    def save(self, state: Mapping[str, Any], iteration: int, best_iteration: int | None) -> Path:
        """Write a checkpoint, then delete those no longer kept.

        Raises:
            CheckpointError: as ``save_checkpoint``; then nothing is deleted.
        """
        path = self.path(iteration)
        save_checkpoint(path, {**state, "format": FORMAT, "iteration": iteration})
        earlier = [one for one in self.iterations() if one < iteration and one != best_iteration]
        for old in earlier[: max(len(earlier) - (self.keep - 1), 0)]:
            self.path(old).unlink(missing_ok=True)
        return path

    def load_last(self) -> dict[str, Any]:
        """The newest checkpoint that can be read; warns about each newer one that cannot.

        A broken one is left for inspection; the run overwrites it on reaching its iteration.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            CheckpointError: if none can be read, naming every fault.
        """
        iterations = self.iterations()
        if not iterations:
            raise FileNotFoundError(f"no checkpoint to resume from in {self.folder}")
        faults = []
        for iteration in reversed(iterations):
            try:
                return load_checkpoint(self.path(iteration))
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
                faults.append(str(error))
        raise CheckpointError("no checkpoint can be read: " + "; ".join(faults))


def git_revision() -> str:
    """Commit of the checkout this package runs from ("-dirty" if changed), or "" outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed somewhere inside another project's checkout
        return ""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()

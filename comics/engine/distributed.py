"""Several processes as one run: started by ``torchrun``, joined by gloo (CPU) or NCCL (CUDA).

Every function also works in a plain process, where there is one rank and nothing is exchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from comics.modeling.build import choose_device

# Processes wait for each other this long: one may still be evaluating when the others are done
PATIENCE = timedelta(hours=2)
# In what gloo and NCCL raise when the other end of a connection is gone
LOST_WORDS = ("gloo/transport", "connection closed by peer", "connection reset by peer", "nccl")


class LostProcessError(RuntimeError):
    """Another process of the run has ended early, or its machine cannot be reached."""


@contextmanager
def process_group(device_name: str) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did; yields this process's device.

    Args:
        device_name: "auto", "cpu" or "cuda", as in ``MODEL.DEVICE``. Under ``torchrun`` each
            process takes the CUDA device of its local rank.

    Raises:
        ValueError: if CUDA is asked for and absent, or has fewer devices than local processes.
    """
    device = choose_device(device_name)
    if "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = _local_cuda_device()
    on_cuda = device.type == "cuda"
    distributed.init_process_group(
        "nccl" if on_cuda else "gloo",
        timeout=PATIENCE,
        device_id=device if on_cuda else None,  # NCCL would guess, and connect at its first use
    )
    try:
        yield device
    finally:
        distributed.destroy_process_group()


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say in words that another process of the run is gone, where PyTorch names sockets.

    Raises:
        LostProcessError: in place of the error of a collective whose other end is gone.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = isinstance(error, distributed.DistError) or any(
            word in text.lower() for word in LOST_WORDS
        )
        if not lost or world_size() == 1:
            raise
        # "[its source file] What happened [address]. Advice."
        first = re.sub(r"^\[[^]]*\]\s*", "", text.strip()).split(". ")[0].split("\n")[0]
        reason = first or type(error).__name__
        raise LostProcessError(
            f"process {rank()} of {world_size()} has lost another process of the run, which was "
            "killed, has failed, or is on a machine that cannot be reached: see its own messages. "
            f"Checkpoints are intact; --resume continues from the last one. ({reason})"
        ) from error


def _local_cuda_device() -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local process {local_rank} has no CUDA device of its own: this machine shows "
            f"{torch.cuda.device_count()}; start fewer processes, or set MODEL.DEVICE cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def rank() -> int:
    """Position of this process in the run; 0 in a plain process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and speaks on the console."""
    return rank() == 0


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        distributed.barrier()


def gather(value: Any) -> list[Any]:
    """Every rank's ``value`` (anything picklable), in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Rank 0's ``value`` (anything picklable), on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def max_over_ranks(values: Tensor) -> list[int]:
    """Largest of each of the values ([K] int64) over the ranks; waits for the device."""
    if world_size() > 1:
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values.tolist()


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each value over the ranks that have it: a term may be absent on some ranks."""
    ranks = gather(dict(values))
    names = dict.fromkeys(name for one in ranks for name in one)
    present = {name: [one[name] for one in ranks if name in one] for name in names}
    return {name: sum(found) / len(found) for name, found in present.items()}

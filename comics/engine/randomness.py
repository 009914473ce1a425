"""Seeding, and saving and restoring the state of every random generator a model may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

# NumPy's global generator is seeded and saved because libraries draw from it; own code uses
# explicit generators.


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's (all devices) global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of the global generators, as tensors and plain values (loadable as weights only)."""
    state = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())  # noqa: NPY002
    name, keys, position = state[0], state[1], state[2:]
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *map(_plain, position)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` returned; a CUDA state is ignored where there is no CUDA."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *position = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the global generators as they were.

    For what must not move the model's random numbers: a validation, or a loader that draws a base
    seed for its workers whenever it is started (also when a run resumes).
    """
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _plain(value: Any) -> int | float:
    return value.item() if isinstance(value, np.generic) else value

"""Whether PyTorch records what is computed, to run it again on other sizes."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """True while a graph is compiled or exported: sizes of what it is shown must not stay in it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()

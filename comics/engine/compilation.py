"""Compiled training: what turns pictures into features runs as ``torch.compile`` makes it.

Features are most of a step, and their shapes stay the same while pictures do. What follows depends
on the faces of a batch, and would be compiled again and again. Validation has pictures of all sizes
and runs uncompiled.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from comics.modeling.faces.base import FaceMethod


def compile_features(model: nn.Module, device: torch.device) -> None:
    """Compile a detector's backbone, or a face method's encoder, in place; no name changes.

    Call it after ``prepare_training``: a copy of a compiled encoder would run the original.

    Raises:
        ValueError: if this machine cannot compile (no C++ compiler, or no Triton).
    """
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    # Compilers fail in many ways, and each of their exceptions has a class of its own
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"SOLVER.COMPILE: nothing can be compiled here: {first[0]}") from error
    if isinstance(model, FaceMethod):
        # Of this encoder alone
        model.encoder.forward_map = torch.compile(  # type: ignore[method-assign]
            model.encoder.forward_map
        )
    owners: list[Any] = [module for module in model.modules() if hasattr(module, "backbone")]
    for owner in owners:
        owner.backbone.compile()  # of the detector, and of its key encoder


def uncompiled() -> contextlib.AbstractContextManager:
    """Within it, what is compiled runs as it was written."""
    return torch.compiler.set_stance("force_eager")

"""What makes inference faster on some machines: mixed precision, and compiled backbones.

The memory layout is no option: models are loaded in PyTorch's ``channels_last`` already
(``comics.modeling.build``), and their inputs follow the layout of the weights.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

AMP_TYPE = torch.float16  # finer than bfloat16 where, as here, no gradient can overflow
BACKBONE = "backbone"  # attribute of every detector
TRIAL_SIDE = 64  # pixels of the picture that shows whether compiling works


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager:
    """Mixed precision where it helps: on CUDA, if ``enabled``; elsewhere nothing."""
    if enabled and device.type == "cuda":
        return torch.autocast(device.type, dtype=AMP_TYPE)
    return contextlib.nullcontext()


def compile_backbones(model: nn.Module, device: torch.device) -> None:
    """Replace the backbones of a model by ones that ``torch.compile`` has made.

    The backbone is most of the work, and its shapes are regular; what follows it depends on the
    faces that are found, and would be compiled again and again.

    Raises:
        ValueError: if this machine cannot compile (no C++ compiler, or no Triton).
    """
    owners = [module for module in model.modules() if hasattr(module, BACKBONE)]
    trial = torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE, device=device)
    for owner in owners:
        compiled = torch.compile(getattr(owner, BACKBONE), dynamic=True)
        try:
            with torch.inference_mode():
                compiled(trial)
        # Compilers fail in many ways, and each of their exceptions has a class of its own
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"the model cannot be compiled here: {first[0]}") from error
        setattr(owner, BACKBONE, compiled)

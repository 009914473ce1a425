"""Between the host and the device without waiting, or with one wait for many values.

A GPU works behind the host's back; each question about a value there makes the host wait until
all work before it is done. So what the host knows is sent without waiting, and what it must know is
asked for together. On the CPU all of this is a copy of a few numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def on_device(
    values: Sequence | np.ndarray | float,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Values that the host knows as a tensor on a device; unlike ``torch.tensor``, without a wait.

    Args:
        values: numbers, nested sequences of them, or an array.
        device: where to.
        dtype: default: as of ``torch.tensor``.
    """
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)


def on_host(*tensors: Tensor) -> list[np.ndarray]:
    """Copies of int64 or bool tensors of one device, by one wait for all: int64, same shapes."""
    together = torch.cat([one.detach().flatten().long() for one in tensors]).cpu().numpy()
    ends = np.cumsum([one.numel() for one in tensors])[:-1]
    parts = np.split(together, ends)
    return [part.reshape(one.shape) for part, one in zip(parts, tensors, strict=True)]

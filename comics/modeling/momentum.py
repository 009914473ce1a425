"""A slow copy of an encoder, moved towards it after every step.

docs/methods.md#comics-key-encoder. Momentum contrast, docs/papers.md#moco.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MomentumEncoder(nn.Module):
    """The key encoder: a copy of ``query`` whose parameters follow it by a moving average.

    It is never trained: its parameters need no gradient and nothing it computes carries one. It
    always runs in evaluation mode (decision): its normalisation layers use the running
    statistics that ``update`` copies, so a key depends on its own image only, not on the batch or
    the process that it happens to be in, and the keys of many steps in a bank are comparable.

    Args:
        query: the module to copy; no reference to it is kept.
        momentum: beta in [0, 1]; 1 never moves.

    Raises:
        ValueError: if ``momentum`` is outside [0, 1].
    """

    def __init__(self, query: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.momentum = momentum
        self.encoder = copy.deepcopy(query).requires_grad_(False).eval()
        self.eval()

    def train(self, mode: bool = True) -> MomentumEncoder:
        """Stay in evaluation mode, whatever ``mode``."""
        return super().train(False)

    @torch.no_grad()
    def update(self, query: nn.Module, momentum: float | None = None) -> None:
        """``key = beta * key + (1 - beta) * query`` for parameters; buffers are copied.

        Args:
            query: the module that was copied, or one of the same structure.
            momentum: beta of this update; None for the encoder's own.
        """
        average = get_ema_multi_avg_fn(self.momentum if momentum is None else momentum)
        average(list(self.encoder.parameters()), list(query.parameters()), None)
        for key, value in zip(self.encoder.buffers(), query.buffers(), strict=True):
            key.copy_(value)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the copied module computes, without gradient."""
        return self.encoder(*args, **kwargs)

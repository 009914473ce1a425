"""Two feature maps of one picture that look at each other: what two-stream methods join them by.

Shape letters: N crops; C channels; h, w of both maps; P = h * w their cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Each map adds what it attends to in the other: ``a + g_a A V_b`` and ``b + g_b A' V_a``.

    ``A = softmax(Q_a K_b)`` over the cells of b, and ``A'`` the same of b over the cells of a,
    from one correlation of all pairs of cells. The gains g start at 0, so that either stream
    starts as it was.

    Args:
        channels: C.
        reduction: factor by which queries and keys are narrower.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.first_query = nn.Conv2d(channels, narrow, 1)
        self.second_query = nn.Conv2d(channels, narrow, 1)
        self.first_value = nn.Conv2d(channels, channels, 1)
        self.second_value = nn.Conv2d(channels, channels, 1)
        self.gains = nn.Parameter(torch.zeros(2))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Two [N, C, h, w] to the same."""
        pairs = self.first_query(first).flatten(2).mT @ self.second_query(second).flatten(2)
        to_second = self.second_value(second).flatten(2) @ pairs.softmax(dim=2).mT
        to_first = self.first_value(first).flatten(2) @ pairs.softmax(dim=1)
        return (
            first + self.gains[0] * to_second.view_as(first),
            second + self.gains[1] * to_first.view_as(second),
        )

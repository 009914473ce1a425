"""Small networks that several face methods share, and the classification loss of all.

Shape letters: N samples; D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.ops.contrastive import zero_of


def two_layers(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """Linear, ReLU, linear: the "two-layer projector" of RealCentric and CompressionRelation."""
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_features)
    )


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N] of P(fake); a connected 0 for N = 0.

    Args:
        labels: [N] int64, 0 real, 1 fake.
    """
    if len(logits) == 0:
        return zero_of(logits)
    logits = logits.float()
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.factor * gradient, None


def reverse_gradient(x: Tensor, factor: float = 1.0) -> Tensor:
    """``x``, whose gradient is multiplied by ``-factor`` (Ganin and Lempitsky 2015)."""
    return _Reverse.apply(x, factor)


class LevelDiscriminator(nn.Module):
    """Four linear layers that tell the compression level of an embedding.

    docs/methods.md#compressionrelation-baselines, eq. 11.

    Its input's gradient is reversed, so one step of one optimiser both trains it and makes the
    embeddings of the two levels harder to tell apart.

    Args:
        dim: D.
        hidden: width of the inner layers.
        reversal: factor on the reversed gradient.
    """

    def __init__(self, dim: int, hidden: int, reversal: float = 1.0) -> None:
        super().__init__()
        self.reversal = reversal
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )

    def forward(self, weak: Tensor, strong: Tensor) -> Tensor:
        """Mean of the cross-entropies of weak [N, D] and of strong [M, D] embeddings.

        A level without embeddings makes it a connected 0: there is nothing to align.
        """
        if len(weak) == 0 or len(strong) == 0:
            return sum((zero_of(p) for p in self.parameters()), zero_of(weak) + zero_of(strong))
        both = reverse_gradient(torch.cat([weak, strong]).float(), self.reversal)
        logits = self.layers(both).flatten()
        is_weak, is_strong = logits[: len(weak)], logits[len(weak) :]
        return (functional.softplus(-is_weak).mean() + functional.softplus(is_strong).mean()) / 2


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without mixed precision: half has too few digits for contrastive losses."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)

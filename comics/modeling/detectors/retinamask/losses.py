"""RetinaMask's losses (Fu, Shvets, Berg 2019, arXiv:1901.03353, section 3).

Shape letters: N anchors; P anchors with a face; K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comics.modeling.detectors.fcos import mean_over_processes

SMALLEST_BETA = 1e-3  # of the turning point (public code): the square part stays finite
COORDINATES = 4


class SelfAdjustingSmoothL1(nn.Module):
    """Smooth L1 whose turning point from square to linear follows the errors (section 3.2).

    The turning point of a coordinate is the running mean of its absolute errors minus their running
    variance, cut to [1e-3, ``beta``].

    Args:
        beta: its largest value, and the first mean.
        momentum: share of the running values that a step keeps, in [0, 1].
        adjusting: False keeps the turning point at ``beta``.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self, beta: float = 0.11, *, momentum: float = 0.9, adjusting: bool = True
    ) -> None:
        super().__init__()
        if beta < SMALLEST_BETA:
            raise ValueError(
                f"MODEL.RETINANET.SMOOTH_L1_LOSS_BETA must be {SMALLEST_BETA} or more, got {beta}"
            )
        self.beta = beta
        self.momentum = momentum
        self.adjusting = adjusting
        # Buffers, so that a resumed run is the same run
        self.register_buffer("running_mean", torch.full((COORDINATES,), beta))
        self.register_buffer("running_variance", torch.zeros(COORDINATES))

    def forward(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Sum over [P, 4] errors; the running values take them in first."""
        errors = (predicted - wanted).abs()
        if self.adjusting:
            self._update(errors.detach())
        turn = self.turning_points().to(errors)
        linear = errors - turn / 2
        return torch.where(errors < turn, errors.square() / (2 * turn), linear).sum()

    def turning_points(self) -> Tensor:
        """[4]."""
        if not self.adjusting:
            return torch.full_like(self.running_mean, self.beta)
        return (self.running_mean - self.running_variance).clamp(SMALLEST_BETA, self.beta)

    def _update(self, errors: Tensor) -> None:
        """From the errors of all processes; a step with fewer than two says nothing."""
        values = errors.double()
        count = values.new_full((1,), float(len(values)))
        sums = torch.cat((count, values.sum(dim=0), values.square().sum(dim=0)))
        count, total, squares = mean_over_processes(sums).split((1, COORDINATES, COORDINATES))
        if count <= 1:
            return
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.running_mean.lerp_(mean.to(self.running_mean), 1 - self.momentum)
        self.running_variance.lerp_(variance.to(self.running_variance), 1 - self.momentum)

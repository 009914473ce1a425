"""An average of the weights over the steps of a training, which generalises better than the last.

An exponential moving average (Polyak averaging; Tarvainen and Valpola 2017, sec. 3): after each
step ``average += (1 - decay) * (weights - average)``. In the first steps, where there is little to
average, the decay is smaller: ``(1 + n) / (10 + n)`` after n steps, as TensorFlow does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comics.modeling.weights import load_state


class WeightAverage:
    """The average of a model's weights, as a model of its own, in evaluation mode.

    Running statistics of normalisation layers are averaged like weights; whole numbers, such as
    counts, are those of the last step.

    Args:
        model: what is trained; copied, so it must not be compiled yet.
        decay: in (0, 1); the average looks back on about ``1 / (1 - decay)`` steps.

    Raises:
        ValueError: for a decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA_DECAY must be in (0, 1), or 0 for none, got {decay}")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of ``model`` after a step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        current = model.state_dict()
        floating: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                floating[0].append(value)
                floating[1].append(current[name])
            else:
                value.copy_(current[name])
        torch._foreach_lerp_(*floating, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The average, and of how many steps it is."""
        return {"model": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``.

        Raises:
            ValueError: if it is of another model.
        """
        load_state(self.module, state["model"], "the checkpoint's average")
        self._updates = state["updates"]

"""What goes wrong in silence where our models are trained by a trainer that does not know them.

Detectron2's ``DefaultTrainer`` makes one view of each image, calls no hook of ours, and its
optimiser is SGD whatever ``SOLVER.OPTIMIZER`` says. Here that ends with a sentence.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

ADVICE = (
    "train it by comics.integrations.detectron2.ComicsTrainer, or give your own trainer what it "
    "lacks: model.prepare_training() after the weights and before the optimiser, "
    "ComicsDatasetMapper in build_train_loader, ComicsTrainer.build_optimizer, and the hook "
    "AfterOptimizerStep(model)"
)


class TrainingWatch:
    """Looks at every step of an optimiser that holds a model's parameters.

    Args:
        model: of ours, as Detectron2 builds it.
        optimizer: ``SOLVER.OPTIMIZER``.
    """

    def __init__(self, model: nn.Module, optimizer: str) -> None:
        self._model = weakref.ref(model)
        self._wanted = optimizer
        self._moved = True  # whether the key encoder has moved since the last step
        self._handle = register_optimizer_step_pre_hook(self._before_step)
        weakref.finalize(model, self._handle.remove)

    def moved(self) -> None:
        """The key encoder has moved."""
        self._moved = True

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        model = self._model()
        if model is None or not _shares_parameters(optimizer, model):
            return
        kind = getattr(torch.optim, self._wanted, torch.optim.Optimizer)
        if not isinstance(optimizer, kind):
            raise RuntimeError(
                f"SOLVER.OPTIMIZER is {self._wanted}, but {type(optimizer).__name__} trains this "
                f"model: {ADVICE}"
            )
        if getattr(model, "training_only", None) is not None:
            if not self._moved:
                raise RuntimeError(
                    "the key encoder stands still: after_optimizer_step() was not called after "
                    f"the last step; {ADVICE}"
                )
            self._moved = False


def _shares_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    first = (group["params"][0] for group in optimizer.param_groups if group["params"])
    return any(id(parameter) in own for parameter in first)

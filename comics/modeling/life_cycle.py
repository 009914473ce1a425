"""The life of a model in training: the one order of calls that every trainable model here shares.

::

    model = build_model(cfg)             # weights are loaded
    model.prepare_training()             # before DDP, the optimiser and the loading of a checkpoint
    for epoch in ...:
        model.start_epoch(epoch)
        for batch in loader:
            sum(model(...).losses.values()).backward(); optimizer.step()
            model.after_optimizer_step()
    save(model.inference_state_dict())

What a model needs in training alone (key encoders, banks, projections, clocks) lies in its
submodule ``training_only``, which no model file holds and a model for inference never builds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

TRAINING_ONLY = "training_only"  # the submodule that no model file holds


class TrainingLifeCycle(nn.Module):
    """Base of detectors, ``Comics`` and face methods.

    A subclass registers the submodule in its constructor (``reserve_training_only``), after the
    modules that its checkpoints have always listed before it: the optimiser counts parameters.
    """

    training_only: nn.ModuleDict | None
    # Whether a step may give a parameter no gradient (docs: SOLVER.FIND_UNUSED_PARAMETERS)
    skips_parameters: bool = False

    def reserve_training_only(self) -> None:
        """Make the place for what ``prepare_training`` builds."""
        self.register_module(TRAINING_ONLY, None)

    def training_modules(self) -> dict[str, nn.Module]:
        """What exists only in training, by name; {} where there is nothing."""
        return {}

    def standing_modules(self) -> dict[str, nn.Module]:
        """The same, of every model of this kind."""
        return {}

    def prepare_training(self) -> None:
        """Make what exists only in training, on the model's device.

        Call it once, after weights are loaded (key encoders start as copies) and before DDP and the
        optimiser, which must see the new parameters. Without such modules it does nothing.

        Raises:
            RuntimeError: if it has been called before.
        """
        if self.training_only is not None:
            raise RuntimeError("this model has been prepared for training already")
        modules = {**self.standing_modules(), **self.training_modules()}
        if modules:
            self.training_only = nn.ModuleDict(modules).to(next(self.parameters()).device)
            self.training_only.train(self.training)

    def training_part(self, name: str) -> Any:
        """What ``training_modules`` or ``standing_modules`` made under that name.

        Raises:
            RuntimeError: before ``prepare_training``.
        """
        self.require_prepared()
        assert self.training_only is not None
        return self.training_only[name]

    def start_epoch(self, epoch: int) -> None:
        """Tell the model that an epoch (from 0) starts, or goes on after a resumed checkpoint."""

    def after_optimizer_step(self) -> None:
        """Once per optimiser step, which may follow several forward passes."""

    @property
    def may_be_best(self) -> bool:
        """Whether what it predicts now has been trained: only then is a checkpoint the best."""
        return True

    def inference_state_dict(self) -> dict[str, Tensor]:
        """The state that a model fresh from the configuration loads, to predict the same."""
        prefix = f"{TRAINING_ONLY}."
        return {k: v for k, v in self.state_dict().items() if not k.startswith(prefix)}

    def require_prepared(self) -> None:
        """Raise ``RuntimeError`` unless ``prepare_training`` has made its modules."""
        if self.training_only is None:
            raise RuntimeError("call prepare_training() before training this model")

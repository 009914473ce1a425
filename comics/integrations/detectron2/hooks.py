"""What our trainer adds to Detectron2's hooks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from detectron2.engine import HookBase
from torch import nn

from comics.engine.checkpoint import git_revision
from comics.engine.trainer import MODEL_BEST
from comics.integrations.detectron2.evaluator import FACE_TASK
from comics.modeling.weights import read_weights

logger = logging.getLogger(__name__)

MEASURED = "bbox/AP"  # a figure that every validation gives
VALUE_KEY = "best_value"  # of the model file's metadata
Export = Callable[[str, Mapping[str, str]], None]  # (name, metadata)


class AfterOptimizerStep(HookBase):
    """Calls the model's ``after_optimizer_step``, which moves the key encoder.

    Args:
        model: not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._after = getattr(model, "after_optimizer_step", None)

    def after_step(self) -> None:
        """Once per optimiser step."""
        if self._after is not None:
            self._after()


class ExportBest(HookBase):
    """Writes the model file ``model_best`` after a validation that was the best so far.

    It goes after ``EvalHook``. The value to beat stands in the file itself, so a resumed run knows
    it.

    Args:
        metric: ``TEST.BEST_METRIC``; higher is better.
        export: writes a model file.
        folder: where it does.
        resume: go on from the file that is there.
    """

    def __init__(self, metric: str, export: Export, folder: str, *, resume: bool) -> None:
        self._metric, self._export = metric, export
        self._checked = -1  # iteration of the validation looked at last
        self._best = -math.inf
        path = Path(folder) / f"{MODEL_BEST}.safetensors"
        if resume and path.is_file():
            self._best = float(read_weights(path).metadata.get(VALUE_KEY, -math.inf))

    def after_step(self) -> None:
        """Look for a new figure."""
        self._check()

    def after_train(self) -> None:
        """Look for the last figure."""
        self._check()

    def _check(self) -> None:
        latest = self.trainer.storage.latest()
        _, iteration = latest.get(MEASURED, (math.nan, -1))
        if iteration == self._checked:
            return
        value, known = latest.get(self._metric, (math.nan, -1))
        if known != iteration:
            if not self._metric.startswith(f"{FACE_TASK}/"):
                raise ValueError(
                    f"TEST.BEST_METRIC {self._metric!r} is not among the validation's metrics: "
                    f"{', '.join(name for name in latest if '/' in name)}"
                )
            value = math.nan  # no face was found
        self._checked = iteration
        done = min(self.trainer.iter + 1, self.trainer.max_iter)
        logger.info("iteration %d: %s %.4f", done, self._metric, value)
        if value > self._best:  # never, for NaN: there was nothing to measure it on
            self._best = value
            self._export(MODEL_BEST, {VALUE_KEY: repr(float(value))})


def export_metadata(iteration: int) -> dict[str, str]:
    """What a model file says of the run."""
    return {"iteration": str(iteration), "git_revision": git_revision()}

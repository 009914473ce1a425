"""The training loop: steps, schedule, logs, validation, checkpoints, and a clean end."""

from __future__ import annotations

import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from comics.engine import distributed
from comics.engine.averaging import WeightAverage
from comics.engine.checkpoint import CheckpointFolder, git_revision
from comics.engine.logs import MetricsLog, Progress, RunningMeans
from comics.engine.randomness import random_state, seed_everything, set_random_state, undisturbed
from comics.engine.signals import StopRequest
from comics.engine.step import Batch, NonFiniteError, StepOutcome, TrainingStep
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.modeling.weights import load_state

logger = logging.getLogger(__name__)

MODEL_BEST = "model_best"
MODEL_FINAL = "model_final"
MODEL_LAST = "model_last"  # of a run that was stopped before its end


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        iteration: iterations done.
        metrics: of the last validation; empty if there was none.
        best: (value of the best metric, its iteration); None without validation.
        stop_signal: the signal that stopped the run before its end, or None.
    """

    iteration: int
    metrics: dict[str, float]
    best: tuple[float, int] | None
    stop_signal: int | None


def _load_average(average: WeightAverage, state: Mapping[str, Any]) -> None:
    if state.get("average") is None:  # of a run that began without: it starts here
        average.load_state_dict({"model": state["model"], "updates": 0})
    else:
        average.load_state_dict(state["average"])


class Trainer:
    """Trains a detector or a face method for a number of iterations, resumable after each.

    An iteration is one optimiser step, then, where due: log, checkpoint, validation, export of the
    best weights, checkpoint. A run killed anywhere resumes from the last checkpoint and repeats
    what came after it. A stop signal ends the run after the step, with a checkpoint.

    Args:
        model: on ``device``; called as ``LossModel`` does. Its ``start_epoch(epoch)`` is called
            before the first step of each epoch, and of a resumed run (with the epoch that goes
            on), and ``after_optimizer_step()`` after each step.
        optimizer, scheduler: from ``comics.engine.optim``.
        batches: endless micro-batches of this process, from where the run (re)starts.
        checkpoints: where checkpoints go and how many stay.
        metrics_log: None on all but the main process.
        device: of the model.
        max_iterations: the run ends after this many iterations.
        iterations_per_epoch: of the loader; None if the model need not know of epochs.
        accumulate: micro-batches per iteration.
        clip_norm, amp_dtype, find_unused: as in ``TrainingStep``.
        log_period, checkpoint_period: in iterations.
        eval_period: iterations between validations; 0 validates at the end only.
        evaluate: validation, called on every process with the model in evaluation mode; the main
            process's dict counts. None trains without.
        best_metric: key of that dict; higher is better.
        export: writes the weights under a name (``MODEL_BEST``, ...), given text metadata.
        average: of the weights; what is validated and exported. None: the weights themselves are.
        seed: for processes beyond those that a resumed checkpoint knows.
        config_text: stored in checkpoints.
    """

    def __init__(
        self,
        *,
        model: TrainingLifeCycle,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        batches: Iterable[Batch],
        checkpoints: CheckpointFolder,
        metrics_log: MetricsLog | None,
        device: torch.device,
        max_iterations: int,
        iterations_per_epoch: int | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        amp_dtype: torch.dtype | None = None,
        find_unused: bool = False,
        log_period: int = 20,
        checkpoint_period: int = 5000,
        eval_period: int = 0,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        best_metric: str = "segm/AP",
        export: Callable[[str, Mapping[str, str]], None] | None = None,
        average: WeightAverage | None = None,
        seed: int = 0,
        config_text: str = "",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        how: dict[str, Any] = {"clip_norm": clip_norm, "amp_dtype": amp_dtype}
        self.step = TrainingStep(model, optimizer, device=device, find_unused=find_unused, **how)
        if self.step.scaler.is_enabled():  # it may skip steps while it looks for a scale
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        self.batches = batches
        self.checkpoints = checkpoints
        self.metrics_log = metrics_log
        self.device = device
        self.max_iterations = max_iterations
        self.iterations_per_epoch = iterations_per_epoch
        self.accumulate = accumulate
        self.log_period = log_period
        self.checkpoint_period = checkpoint_period
        self.eval_period = eval_period
        self.evaluate = evaluate
        self.best_metric = best_metric
        self.export = export
        self.average = average
        self.seed = seed
        self.config_text = config_text

        self.iteration = 0
        self.best: tuple[float, int] | None = None
        self.metrics: dict[str, float] = {}
        self._epoch: int | None = None  # that the model was told of
        self._evaluated = -1  # iteration of the last validation
        self._saved = -1  # iteration of the last checkpoint
        self._stop = StopRequest()
        self._means = RunningMeans()
        self._window = (time.perf_counter(), 0)  # time and iteration at the last log line

    # ------------------------------------------------------------------------------- the loop

    def run(self) -> TrainingResult:
        """Train to the end, or until a signal asks for a stop.

        Raises:
            NonFiniteError: for a loss or gradient that is not finite, naming it and the files;
                the weights are unchanged since the step before, and nothing is saved.
            CheckpointError: if a checkpoint cannot be written; earlier ones are intact.
        """
        progress = Progress(self.max_iterations, self.iteration, distributed.is_main())
        self._window = (time.perf_counter(), self.iteration)
        self.model.train()
        with self._stop:
            try:
                signum = self._loop(progress)
            finally:
                progress.close()
            return self._finish(signum)

    def _loop(self, progress: Progress) -> int:
        """Iterations until the end or a signal, whose number is returned (0 at the end)."""
        batches = iter(self.batches)
        signum = 0
        if self.iteration and self._validation_due():  # the run was killed while validating
            self._validate()
        try:
            while self.iteration < self.max_iterations and not signum:
                signum = self._iterate(batches, progress)
        finally:
            del batches  # dismisses the loader's processes while signals are held back
        return signum

    def _iterate(self, batches: Iterator[Batch], progress: Progress) -> int:
        """One iteration; returns the signal that asks for a stop on any process, or 0."""
        began = time.perf_counter()
        with undisturbed():
            micro_batches = list(itertools.islice(batches, self.accumulate))
        if len(micro_batches) < self.accumulate:
            raise RuntimeError(f"the loader ended after iteration {self.iteration}")
        waited = time.perf_counter() - began
        self._start_epoch()
        outcome = self.step.backward(micro_batches)
        flags = outcome.faulty.new_tensor([0, self._stop.signum], dtype=torch.int64)
        flags[0] = outcome.faulty
        faulty, signum = distributed.max_over_ranks(flags)
        if faulty:
            self._raise_fault()
        rate = float(self.scheduler.get_last_lr()[0])
        self._apply()
        self._count(outcome, waited)
        progress.advance()
        self._periodic(rate, progress, stopping=bool(signum))
        return signum

    def _start_epoch(self) -> None:
        """Tell the model of the epoch, if it has not been told."""
        if self.iterations_per_epoch is None:
            return
        epoch = self.iteration // self.iterations_per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self.model.start_epoch(epoch)

    def _apply(self) -> None:
        self.step.apply()
        self.model.after_optimizer_step()
        if self.average is not None:
            self.average.update(self.model)
        self.scheduler.step()
        self.iteration += 1

    def _raise_fault(self) -> None:
        faults = [fault for fault in distributed.gather(self.step.loss_fault()) if fault]
        faults = faults or distributed.gather(self.step.gradient_fault())
        raise NonFiniteError(f"iteration {self.iteration + 1}: " + "; ".join(faults))

    def _periodic(self, rate: float, progress: Progress, stopping: bool) -> None:
        last = self.iteration == self.max_iterations
        if last or self.iteration % self.log_period == 0:
            self._log(rate, progress)
        if stopping or last:
            return
        if self._validation_due():
            self._validate()
        elif self.iteration % self.checkpoint_period == 0:
            self.save()

    def _validation_due(self) -> bool:
        if self.evaluate is None or self._evaluated == self.iteration:
            return False
        return self.eval_period > 0 and self.iteration % self.eval_period == 0

    def _finish(self, signum: int) -> TrainingResult:
        if signum:
            logger.warning("stopped by signal %d after iteration %d", signum, self.iteration)
        elif self.evaluate is not None and self._evaluated != self.iteration:
            self._validate()
        if self._saved != self.iteration:
            self.save()
        self._export(MODEL_LAST if signum else MODEL_FINAL)
        return TrainingResult(self.iteration, self.metrics, self.best, signum or None)

    # ------------------------------------------------------------------------------- logging

    def _count(self, outcome: StepOutcome, waited: float) -> None:
        self._means.add({f"loss/{name}": value for name, value in outcome.losses.items()})
        self._means.add({f"metric/{name}": value for name, value in outcome.metrics.items()})
        self._means.add({"gradient_norm": outcome.gradient_norm, "data_seconds": waited})

    def _log(self, rate: float, progress: Progress) -> None:
        values = distributed.mean_over_ranks(self._means.pop())
        since, iteration = self._window
        self._window = (time.perf_counter(), self.iteration)
        seconds = (self._window[0] - since) / max(self.iteration - iteration, 1)
        values |= {"lr": rate, "seconds": seconds}
        if self.device.type == "cuda":
            values["device_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.metrics_log is not None:
            self.metrics_log.write(self.iteration, values)
        progress.show({"loss": values["loss/total"], "lr": rate})
        terms = "  ".join(f"{k[5:]} {v:.4g}" for k, v in values.items() if k.startswith("loss/"))
        left = timedelta(seconds=round(seconds * (self.max_iterations - self.iteration)))
        logger.info(
            "iteration %d/%d  %s  lr %.3g  %.3f s/iteration  eta %s",
            *(self.iteration, self.max_iterations, terms, rate, seconds, left),
        )

    # ---------------------------------------------------------------------------- validation

    def _validate(self) -> None:
        """Measure; note the best. A checkpoint goes first: a signal then ends the run at once."""
        assert self.evaluate is not None
        if self._saved != self.iteration:
            self.save()
        began = time.perf_counter()
        self.model.eval()
        with undisturbed(), torch.no_grad(), self._stop.at_once():
            self.metrics = distributed.broadcast(dict(self.evaluate(self._measured())))
        self.model.train()
        self._evaluated = self.iteration
        if self.metrics_log is not None:
            self.metrics_log.write(self.iteration, self.metrics)
        value = self.metrics.get(self.best_metric, math.nan)
        logger.info("iteration %d: %s %.4f", self.iteration, self.best_metric, value)
        self._keep_best()
        self.save()
        now = time.perf_counter()
        self._window = (self._window[0] + now - began, self._window[1])  # is not step time

    def _measured(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _keep_best(self) -> None:
        if self.best_metric not in self.metrics:
            raise ValueError(
                f"TEST.BEST_METRIC {self.best_metric!r} is not among the validation's metrics: "
                f"{', '.join(self.metrics)}"
            )
        value = self.metrics[self.best_metric]
        if math.isnan(value):  # nothing to measure it on
            logger.warning("%s is not defined on this validation set", self.best_metric)
        elif not self.model.may_be_best:
            logger.info("not chosen as best: this part of the training is not what is tested")
        elif self.best is None or value > self.best[0]:
            self.best = (value, self.iteration)
            self._export(MODEL_BEST)

    def _export(self, name: str) -> None:
        if self.export is None or not distributed.is_main():
            return
        metadata = {"iteration": str(self.iteration), "git_revision": git_revision()}
        self.export(name, metadata)

    # --------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint of this iteration (the main process does; all must call)."""
        state = self.state_dict()
        self._saved = self.iteration
        if distributed.is_main():
            best = None if self.best is None else self.best[1]
            path = self.checkpoints.save(state, self.iteration, best)
            logger.info("wrote %s", path)
        distributed.barrier()

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, in tensors and plain values."""
        process = {"random": random_state(), "means": self._means.state_dict()}
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "best": None if self.best is None else list(self.best),
            "metrics": self.metrics,
            "evaluated": self._evaluated,
            "log_size": 0 if self.metrics_log is None else self.metrics_log.size(),
            "processes": distributed.gather(process),
            "accumulate": self.accumulate,
            "config": self.config_text,
            "git_revision": git_revision(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run that ``state_dict`` was taken from.

        Raises:
            ValueError: if the model or the optimiser is of another make.
        """
        load_state(self.model, state["model"], "the checkpoint")
        if self.average is not None:
            _load_average(self.average, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.iteration = self._saved = state["iteration"]
        self.best = None if state["best"] is None else tuple(state["best"])
        self.metrics, self._evaluated = state["metrics"], state["evaluated"]
        self._load_process(state["processes"])

    def _load_process(self, processes: list[dict[str, Any]]) -> None:
        rank, count = distributed.rank(), distributed.world_size()
        if count != len(processes):
            logger.warning("%d processes continue a run of %d", count, len(processes))
            seed_everything(self.seed + rank + self.iteration)
            return
        set_random_state(processes[rank]["random"])
        self._means.load_state_dict(processes[rank]["means"], self.device)

"""One optimiser step in Detectron2's trainer: accumulation, mixed precision, clipping, faults."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from comics.engine import distributed
from comics.engine.randomness import undisturbed
from comics.engine.step import NonFiniteError

Inputs = Sequence[Mapping[str, Any]]


class StepTrainer(SimpleTrainer):
    """``SimpleTrainer`` with what the native runtime's step has, on any device.

    Args:
        model: takes Detectron2's inputs; wrapped for several processes.
        data_loader: endless inputs, ``accumulate`` for each step.
        optimizer: of the model's parameters.
        device: of the model.
        accumulate: backward passes per step.
        clip_norm: gradients are scaled down to this L2 norm, all together; None leaves them.
        amp_dtype: autocast to bfloat16, or to float16 with loss scaling; None: float32.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Inputs] | None,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        accumulate: int = 1,
        clip_norm: float | None = None,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.device = device
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.amp_dtype = amp_dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)

    def run_step(self) -> None:
        """Forward, backward and optimiser step of one iteration.

        Raises:
            NonFiniteError: for a loss or gradient that is not finite, on every process, naming it
                and the files; the weights are as they were before the step.
        """
        began = time.perf_counter()
        with undisturbed():
            batches = list(itertools.islice(self._data_loader_iter, self.accumulate))
        waited = time.perf_counter() - began
        self.optimizer.zero_grad(set_to_none=True)
        parts = []
        for position, batch in enumerate(batches):
            with self._synchronised(last=position == len(batches) - 1):
                parts.append(self._micro_batch(batch))
        losses = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        self._check(losses, self._gradient_norm(), batches)
        self.after_backward()
        self._write_metrics(losses, waited)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """As ``SimpleTrainer``, with the loss scale."""
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        super().load_state_dict(state_dict)
        self.scaler.load_state_dict(state_dict["grad_scaler"])

    def _micro_batch(self, batch: Inputs) -> dict[str, Tensor]:
        enabled = self.amp_dtype is not None
        with torch.autocast(self.device.type, self.amp_dtype, enabled=enabled):
            losses = self.model(batch)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        self.scaler.scale(total / self.accumulate).backward()
        return {name: value.detach().float() for name, value in losses.items()}

    def _synchronised(self, *, last: bool) -> AbstractContextManager:
        """Processes exchange gradients in the last micro-batch only."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _gradient_norm(self) -> Tensor:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.clip_norm is not None:
            return nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients).to(self.device)

    def _check(self, losses: Mapping[str, Tensor], norm: Tensor, batches: Sequence[Inputs]) -> None:
        """Raise on every process if a loss or (unless losses are scaled) a gradient is faulty."""
        total = torch.stack(list(losses.values())).sum()
        finite = total.isfinite() if self.scaler.is_enabled() else (total + norm).isfinite()
        (faulty,) = distributed.max_over_ranks((~finite).to(torch.int64).reshape(1))
        if not faulty:
            return
        names = [
            f"{name} = {value.item()}" for name, value in losses.items() if not value.isfinite()
        ]
        what = "loss is not finite: " + ", ".join(names) if names else "gradients are not finite"
        files = ", ".join(str(item.get("file_name")) for batch in batches for item in batch)
        found = distributed.gather("" if bool(finite) else f"{what}; files of the batch: {files}")
        text = "; ".join(dict.fromkeys(fault for fault in found if fault))
        raise NonFiniteError(f"iteration {self.iter + 1}: {text}")

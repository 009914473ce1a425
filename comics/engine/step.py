"""One optimiser step: forward and backward of its micro-batches, clipping, mixed precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from comics.engine import distributed
from comics.structures import DetectionBatch, FaceBatch

Batch = DetectionBatch | FaceBatch

MAX_NAMED_PARAMETERS = 5  # in the message about gradients that are not finite


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite; the message names it and the batch's files."""


@dataclass(frozen=True)
class StepOutcome:
    """Gradients are in place, nothing has been applied.

    Attributes:
        losses: name -> mean over the micro-batches, detached scalar; "total" is their sum.
        metrics: name -> what the model reports beside its losses, likewise.
        gradient_norm: L2 norm of all gradients together, before clipping.
        faulty: bool scalar: a loss is not finite, or (unless losses are scaled) the norm is not.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    gradient_norm: Tensor
    faulty: Tensor


class LossModel(nn.Module):
    """A model's training mode as a function of a batch.

    A detector is called with the parts of a ``DetectionBatch``, a face method with a ``FaceBatch``.
    DistributedDataParallel looks for gradients in what ``forward`` returns: the losses only, not
    the features that a ``TrainingOutput`` also carries.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses and metrics (not differentiated) of one micro-batch, by name."""
        if isinstance(batch, FaceBatch):
            output = self.model(batch)
        else:
            views = {} if batch.key_images is None else {"key_images": batch.key_images}
            output = self.model(batch.images, batch.targets, **views)
        if not output.losses:
            raise ValueError(f"{type(self.model).__name__} returned no losses in training mode")
        return output.losses, dict(getattr(output, "metrics", None) or {})


def distribute(model: LossModel, find_unused: bool = False) -> nn.Module:
    """The model, with gradients averaged over the processes when there are several.

    A step may leave parameters without a gradient with ``find_unused``, or if the model says so
    (``TrainingLifeCycle.skips_parameters``).

    Buffers are not broadcast: banks and prototypes are kept identical by gathering their keys, and
    the statistics of batch normalisation stay local unless the model asks for SyncBN.
    """
    if distributed.world_size() == 1:
        return model
    find_unused = find_unused or getattr(model.model, "skips_parameters", False)
    return DistributedDataParallel(
        model, broadcast_buffers=False, find_unused_parameters=find_unused
    )


class TrainingStep:
    """Computes gradients, then applies them, so that the caller can refuse to.

    Args:
        model: a detector or face method, in training mode, on ``device``; wrapped for several
            processes here.
        optimizer: of the model's parameters.
        device: where micro-batches are moved to.
        clip_norm: gradients are scaled down to this L2 norm, all together; None leaves them.
        amp_dtype: autocast to bfloat16, or to float16 with loss scaling; None computes in float32.
        find_unused: see ``distribute``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        clip_norm: float | None = None,
        amp_dtype: torch.dtype | None = None,
        find_unused: bool = False,
    ) -> None:
        self._model = distribute(LossModel(model), find_unused)
        self._optimizer = optimizer
        self._device = device
        self._clip_norm = clip_norm
        self._amp_dtype = amp_dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)

    def backward(self, batches: Sequence[Batch]) -> StepOutcome:
        """Gradients of the mean loss of the micro-batches.

        The losses of each micro-batch are kept until the next call, for
        ``loss_fault``.
        """
        self._optimizer.zero_grad(set_to_none=True)
        self._batches = list(batches)
        results = []
        for position, batch in enumerate(batches):
            with self._synchronised(position == len(batches) - 1):
                results.append(self._micro_batch(batch, share=1 / len(batches)))
        self._losses = [losses for losses, _ in results]
        losses = _means(self._losses)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        norm = self._gradient_norm()
        finite = total.isfinite() if self.scaler.is_enabled() else (total + norm).isfinite()
        return StepOutcome(
            {**losses, "total": total}, _means([metrics for _, metrics in results]), norm, ~finite
        )

    def apply(self) -> None:
        """Take the optimiser's step; with loss scaling, skipped where gradients overflowed."""
        self.scaler.step(self._optimizer)
        self.scaler.update()

    def loss_fault(self) -> str:
        """Which losses of this process's last ``backward`` are not finite, and for which files."""
        for losses, batch in zip(self._losses, self._batches, strict=True):
            names = [name for name, value in losses.items() if not value.isfinite()]
            if names:
                values = ", ".join(f"{name} = {losses[name].item()}" for name in names)
                return f"loss is not finite: {values}; files of the batch: {_files([batch])}"
        return ""

    def gradient_fault(self) -> str:
        """Which parameters' gradients are not finite, and for which files."""
        names = [
            name.removeprefix("module.").removeprefix("model.")
            for name, parameter in self._model.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        shown = ", ".join(names[:MAX_NAMED_PARAMETERS]) or "none alone, their norm overflows"
        return (
            f"losses are finite, but gradients are not: {shown} ({len(names)} parameters); "
            f"files of the batch: {_files(self._batches)}"
        )

    def _micro_batch(
        self, batch: Batch, share: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        with torch.autocast(
            self._device.type, self._amp_dtype, enabled=self._amp_dtype is not None
        ):
            losses, metrics = self._model(batch.to(self._device))
        total = torch.stack([value.float() for value in losses.values()]).sum()
        self.scaler.scale(total * share).backward()
        return _detached(losses), _detached(metrics)

    def _synchronised(self, last: bool) -> AbstractContextManager:
        """Processes exchange gradients in the last micro-batch only."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    def _gradient_norm(self) -> Tensor:
        self.scaler.unscale_(self._optimizer)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if self._clip_norm is not None:
            return nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients).to(self._device)


def _detached(values: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    return {
        k: v.detach() if isinstance(v, Tensor) else torch.tensor(float(v))
        for k, v in values.items()
    }


def _means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for part in parts for name in part)
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: torch.stack(values).mean() for name, values in found.items()}


def _files(batches: Sequence[Batch]) -> str:
    return ", ".join(name for batch in batches for name in batch.file_names)

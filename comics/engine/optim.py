"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from comics.config import CfgNode

# Their scale and shift are what WEIGHT_DECAY_NORM applies to. _NormBase is the common base of
# batch, synchronised-batch and instance normalisation.
NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, weight_decay: float, weight_decay_norm: float
) -> list[dict[str, object]]:
    """Trainable parameters in two groups: those of normalisation layers, and all others.

    A parameter shared by several modules is listed once, with the first of them. Frozen parameters
    (``requires_grad`` False: frozen stages, the key encoder) are left out.
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    seen: set[int] = set()
    for module, parameter in _own_parameters(model):
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            groups[isinstance(module, NORM_LAYERS)].append(parameter)
    decays = {False: weight_decay, True: weight_decay_norm}
    return [
        {"params": parameters, "weight_decay": decays[is_norm]}
        for is_norm, parameters in groups.items()
        if parameters
    ]


def _own_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            yield module, parameter


def build_optimizer(
    model: nn.Module,
    *,
    name: str,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    momentum: float,
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam or AdamW (which have no use for ``momentum``).

    The weight decay of "Adam" is part of the gradient, as in the face methods' papers; that of
    "AdamW" is not.

    Raises:
        ValueError: for another name, or if nothing in the model is trainable.
    """
    groups = parameter_groups(model, weight_decay, weight_decay_norm)
    if not groups:
        raise ValueError("the model has no trainable parameter")
    if name == "SGD":
        return torch.optim.SGD(groups, lr=base_lr, momentum=momentum)
    if name == "Adam":
        return torch.optim.Adam(groups, lr=base_lr)
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=base_lr)
    raise ValueError(f"SOLVER.OPTIMIZER must be 'SGD', 'Adam' or 'AdamW', got {name!r}")


def optimizer_from_config(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``SOLVER`` describes."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        name=solver.OPTIMIZER,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        momentum=solver.MOMENTUM,
    )


def warmup_factor(iteration: int, *, iterations: int, start: float) -> float:
    """Linear from ``start`` at iteration 0 to 1 at ``iterations``, then 1."""
    if iteration >= iterations:
        return 1.0
    progress = iteration / iterations
    return start * (1.0 - progress) + progress


def multistep_factor(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """``gamma`` to the power of how many of the ascending ``steps`` have been reached."""
    return gamma ** bisect.bisect_right(steps, iteration)


def cosine_factor(iteration: int, *, iterations: int) -> float:
    """Half a cosine from 1 at iteration 0 to 0 at ``iterations``."""
    return 0.5 * (1.0 + math.cos(math.pi * min(iteration, iterations) / iterations))


def _product(iteration: int, *, factors: Sequence[Callable[[int], float]]) -> float:
    return math.prod(factor(iteration) for factor in factors)


def scheduler_from_config(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Warm-up times the decay that ``SOLVER.LR_SCHEDULER_NAME`` names, in closed form.

    The rate is a function of the iteration alone (warm-up and decay multiply, as in Detectron2),
    so a resumed run cannot drift from it.

    Raises:
        ValueError: for an unknown name, or steps that do not ascend.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = list(solver.STEPS)
        if steps != sorted(steps):
            raise ValueError(f"SOLVER.STEPS must ascend, got {steps}")
        decay = partial(multistep_factor, steps=steps, gamma=solver.GAMMA)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        decay = partial(cosine_factor, iterations=solver.MAX_ITER)
    else:
        raise ValueError(
            "SOLVER.LR_SCHEDULER_NAME must be 'WarmupMultiStepLR' or 'WarmupCosineLR', "
            f"got {solver.LR_SCHEDULER_NAME!r}"
        )
    warmup = partial(warmup_factor, iterations=solver.WARMUP_ITERS, start=solver.WARMUP_FACTOR)
    return LambdaLR(optimizer, partial(_product, factors=(warmup, decay)))

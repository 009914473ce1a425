"""A training in milliseconds: a model with dropout, a bank and an EMA, on endless random images.

Also a program, so that tests can kill it and start it under torchrun.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from comics.config import get_cfg
from comics.engine import distributed
from comics.engine.checkpoint import CheckpointFolder
from comics.engine.logs import MetricsLog
from comics.engine.optim import build_optimizer
from comics.engine.randomness import seed_everything
from comics.engine.trainer import Trainer
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.modeling.weights import save_weights
from comics.structures import DetectionBatch, Faces

SIDE = 8


@dataclass(frozen=True)
class Output:
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)


class TinyModel(TrainingLifeCycle):
    """Two losses; dropout draws from the global generator; a bank and an EMA are state."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.first = nn.Linear(3 * SIDE * SIDE, 4)
        self.norm = nn.LayerNorm(4)
        self.second = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.key = nn.Linear(4, 1).requires_grad_(False)
        self.register_buffer("bank", torch.zeros(4))
        self.nan_from: int | None = None
        self.calls = 0

    def forward(self, images: list[Tensor], targets: list[Faces], key_images=None) -> Output:
        self.calls += 1
        pixels = torch.stack([image.float().flatten() / 255 for image in images])
        hidden = self.norm(self.first(self.dropout(pixels)))
        self.bank += hidden.detach().mean(dim=0)
        second = self.second(hidden) - self.key(hidden.detach())
        if self.nan_from is not None and self.calls >= self.nan_from:
            second = second * float("nan")
        return Output(
            {
                "loss_first": (hidden[:, 0] - pixels[:, 0]).square().mean(),
                "loss_second": (second - 1).square().mean(),
            },
            {"hidden": hidden.detach().mean()},
        )

    def after_optimizer_step(self) -> None:
        for key, query in zip(self.key.parameters(), self.second.parameters(), strict=True):
            key.lerp_(query.detach(), 0.1)


def make_batch(position: int, size: int) -> DetectionBatch:
    generator = torch.Generator().manual_seed(position)
    images = [
        torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        for _ in range(size)
    ]
    return DetectionBatch(
        images=images,
        targets=[Faces.empty((SIDE, SIDE)) for _ in images],
        key_images=None,
        image_ids=list(range(size)),
        file_names=[f"image_{position}_{k}.png" for k in range(size)],
        original_sizes=[(SIDE, SIDE)] * size,
    )


def split(batch: DetectionBatch, start: int, stop: int) -> DetectionBatch:
    part = slice(start, stop)
    return DetectionBatch(
        images=batch.images[part],
        targets=batch.targets[part],
        key_images=None,
        image_ids=batch.image_ids[part],
        file_names=batch.file_names[part],
        original_sizes=batch.original_sizes[part],
    )


def micro_batches(
    start_iteration: int, images: int, accumulate: int, delay: float = 0.0
) -> Iterator[DetectionBatch]:
    """Global batches of ``images``, cut by rank, then by accumulation step."""
    parts = distributed.world_size() * accumulate
    size = images // parts
    iteration = start_iteration
    while True:
        batch = make_batch(iteration, images)
        torch.rand(1)  # a loader may draw from the global generator
        time.sleep(delay)
        for step in range(accumulate):
            part = distributed.rank() * accumulate + step
            yield split(batch, part * size, (part + 1) * size)
        iteration += 1


def tiny_evaluation(model: nn.Module) -> dict[str, float]:
    torch.rand(3)
    return {"segm/AP": model.second.bias.item(), "bbox/AP": float("nan")}


def build_trainer(
    folder: Path,
    *,
    iterations: int,
    resume: bool = False,
    model: TinyModel | None = None,
    images: int = 4,
    accumulate: int = 1,
    delay: float = 0.0,
    keep: int = 2,
    **arguments,
) -> Trainer:
    seed_everything(0)
    model = TinyModel() if model is None else model
    seed_everything(distributed.rank())
    optimizer = build_optimizer(
        model, name="SGD", base_lr=0.05, weight_decay=1e-3, weight_decay_norm=0.0, momentum=0.9
    )
    checkpoints = CheckpointFolder(folder, keep)
    state = checkpoints.load_last() if resume else None
    start = 0 if state is None else state["iteration"]
    size = 0 if state is None else state["log_size"]
    log = None
    if distributed.is_main():
        log = MetricsLog(folder, size=size, iteration=start, tensorboard=False)

    def export(name: str, metadata: dict[str, str]) -> None:
        save_weights(folder / f"{name}.safetensors", model.state_dict(), get_cfg(), metadata)

    settings = {"log_period": 3, "checkpoint_period": 4, "export": export, **arguments}
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.9**i),
        batches=micro_batches(start, images, accumulate, delay),
        checkpoints=checkpoints,
        metrics_log=log,
        device=torch.device("cpu"),
        max_iterations=iterations,
        accumulate=accumulate,
        **settings,
    )
    if state is not None:
        trainer.load_state_dict(state)
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--nan-on-rank", type=int, default=-1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        seed_everything(0)
        model = TinyModel(arguments.dropout)
        if distributed.rank() == arguments.nan_on_rank:
            model.nan_from = 3
        trainer = build_trainer(
            arguments.folder,
            iterations=arguments.iterations,
            resume=arguments.resume,
            model=model,
            accumulate=arguments.accumulate,
            delay=arguments.delay,
            evaluate=tiny_evaluation if arguments.evaluate else None,
            eval_period=5,
        )
        result = trainer.run()
        torch.save(model.state_dict(), arguments.folder / f"rank_{distributed.rank()}.pt")
    return 128 + result.stop_signal if result.stop_signal else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""``benchmark.py sizes``: parameters and arithmetic of configurations, as a Markdown table.

Shape letters: H, W height and width of the picture.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        parameters: of the model that infers.
        trained: of those, how many a training step moves.
        training_only: further ones, of projections (key encoder and banks are copies and buffers).
        operations: multiplications with an addition, of the dense part for one picture: what does
            not depend on the faces found.
    """

    parameters: int
    trained: int
    training_only: int
    operations: int


def benchmark_sizes(arguments: argparse.Namespace) -> None:
    """Print a line per configuration."""
    paths = arguments.configs or sorted(
        path for path in CONFIGS.glob("*/R_50*.yaml") if path.parent.name != "Face"
    )
    height, width = arguments.shape
    print(f"| configuration | parameters, M | trained, M | only in training, M | G multiply-adds "
          f"at {height}x{width} |")  # fmt: skip
    print("|---|---|---|---|---|")
    for path in map(Path, paths):
        size = size_of(path, (height, width))
        print(
            f"| {path.parent.name}/{path.stem} | {size.parameters / 1e6:.1f} | "
            f"{size.trained / 1e6:.1f} | {size.training_only / 1e6:.2f} | "
            f"{size.operations / 1e9:.1f} |"
        )


def size_of(config: Path, shape: tuple[int, int]) -> Size:
    """The costs of the model of a configuration with random weights.

    Args:
        config: YAML.
        shape: (H, W) of the picture, multiples of 32; convolutions and matrix products are counted.
    """
    from comics.config import load_config
    from comics.modeling.build import build_model

    overrides = ["MODEL.RESNETS.NORM", "BN", "MODEL.WEIGHTS", ""]
    with torch.device("meta"):  # shapes alone: nothing is computed
        model = build_model(load_config(config, overrides)).eval()
        parameters, trained = count(model), count(model, trained=True)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run_dense_part(model, shape)
        model.prepare_training()
    return Size(parameters, trained, count(model, trained=True) - trained,
                counter.get_total_flops() // 2)  # fmt: skip


def run_dense_part(model: Any, shape: tuple[int, int]) -> None:
    """All of a detector, or of its COMICS variant, that runs on whole pictures."""
    from comics.modeling.comics import Comics
    from comics.modeling.detectors.base import ImageBatch

    detector = model.detector if isinstance(model, Comics) else model
    picture = torch.zeros(1, 3, *shape)
    features = detector.extract_features(ImageBatch(picture, [shape]))
    if isinstance(model, Comics) and model.frequency is not None:
        residuals = torch.zeros_like(picture)
        features = model.frequency.weigh(features, model.frequency.attention_of(residuals))
    detector.dense(features)


def count(model: nn.Module, trained: bool = False) -> int:
    """Numbers in a model's parameters, of all or of those that training moves."""
    chosen: list[Tensor] = [p for p in model.parameters() if p.requires_grad or not trained]
    return sum(p.numel() for p in chosen)

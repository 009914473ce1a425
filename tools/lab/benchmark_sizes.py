"""``benchmark.py sizes``: parameters and arithmetic of configurations, as a Markdown table.

Shape letters: H, W height and width of the picture.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NOTHING_FOUND = 2.0  # a threshold that no probability passes: what is counted is the dense part
NO_DETECTIONS = (
    "MODEL.FCOS.SCORE_THRESH_TEST", "MODEL.SOLOV2.SCORE_THRESH_TEST",
    "MODEL.MEInst.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.SOLO.SCORE_THRESH_TEST", "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.YOLACT.SCORE_THRESH_TEST",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        parameters: of the model that infers.
        trained: of those, how many a training step moves.
        training_only: further ones, of projections (key encoder and banks are copies and buffers).
        operations: multiplications with an addition, of one picture without faces.
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
        shape: (H, W) of the picture; convolutions, matrix products and attention are counted.
    """
    from comics.config import load_config
    from comics.modeling.build import build_model

    overrides = [
        "MODEL.RESNETS.NORM",
        "BN",
        "MODEL.WEIGHTS",
        "",
    ]  # nothing explodes in a random net
    for key in NO_DETECTIONS:
        overrides += [key, str(NOTHING_FOUND)]
    model = build_model(load_config(config, overrides)).eval()
    parameters, trained = count(model), count(model, trained=True)
    picture = torch.zeros(3, *shape)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model([picture])
    if hasattr(model, "prepare_training"):
        model.prepare_training()
    return Size(parameters, trained, count(model, trained=True) - trained,
                counter.get_total_flops() // 2)  # fmt: skip


def count(model: nn.Module, trained: bool = False) -> int:
    """Numbers in a model's parameters, of all or of those that training moves."""
    chosen: list[Tensor] = [p for p in model.parameters() if p.requires_grad or not trained]
    return sum(p.numel() for p in chosen)

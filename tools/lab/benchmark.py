#!/usr/bin/env python
"""Measure speed and memory; every figure is compared with a peer's in the same run.

  tools/lab/benchmark.py evaluation   AP and oLRP at OpenForensics' scale, beside others
  tools/lab/benchmark.py model        BlendMask, COMICS-BlendMask and torchvision's Mask R-CNN
  tools/lab/benchmark.py loader       images per second by workers, and memory over an epoch
  tools/lab/benchmark.py inference    a video from file to file, beside the model's own speed
  tools/lab/benchmark.py faces        faces of a photo in one pass or one by one; methods beside CE
  tools/lab/benchmark.py sizes        parameters and arithmetic of each configuration (no times)

Peak memory is measured in a fresh process of its own. Only ratios from one run mean anything:
absolute times move with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmark_evaluation import benchmark_evaluation, peak_megabytes
from benchmark_faces import PARTS, benchmark_faces
from benchmark_inference import benchmark_inference
from benchmark_model import (
    CLOCKS,
    DEFAULT,
    DETECTRON2,
    OWN,
    SETTINGS,
    TORCHVISION,
    benchmark_model,
    run_model_worker,
)
from benchmark_sizes import benchmark_sizes

if TYPE_CHECKING:
    from comics.config import CfgNode

WHAT = ("inference", "training")


def benchmark_loader(arguments: argparse.Namespace) -> None:
    """Images per second of the training loader by workers, its memory, and the model's own speed.

    Seconds of CPU say how many workers keep up with a model, whatever else the machine does.
    """
    from comics.config import load_config
    from comics.data.loader import build_train_loader

    for workers in arguments.workers:
        cfg = load_config(
            arguments.config_file,
            ["DATASETS.TRAIN", f"['{arguments.dataset}']", "DATALOADER.NUM_WORKERS", str(workers),
             *arguments.overrides],
        )  # fmt: skip
        loader = iter(build_train_loader(cfg, 0))
        next(loader)
        start, before, memory = time.perf_counter(), _cpu_seconds(), []
        for step in range(arguments.batches):
            next(loader)
            if step % max(1, arguments.batches // 4) == 0:
                memory.append(sum(p.memory_full_info().pss for p in _processes()))
        images = arguments.batches * cfg.SOLVER.IMS_PER_BATCH
        rate = images / (time.perf_counter() - start)
        cpu = images / (_cpu_seconds() - before)
        megabytes = ", ".join(f"{value / 2**20:.0f}" for value in memory)
        print(
            f"{workers} workers: {rate:.1f} images/s, {cpu:.1f} a second of CPU; memory of all "
            f"processes {megabytes} MB",
            flush=True,
        )
        if arguments.steps:
            _measure_steps(cfg, loader, arguments.steps)
        del loader


def _measure_steps(cfg: CfgNode, loader: Iterator, steps: int) -> None:
    """Images a second of training steps of the configured model, on the loader's pictures."""
    import torch

    from comics.engine.step import TrainingStep
    from comics.engine.train import amp_dtype
    from comics.modeling.build import FAST_LAYOUT, build_model, choose_device

    device = choose_device(cfg.MODEL.DEVICE)
    model = build_model(cfg).to(device).to(memory_format=FAST_LAYOUT).train()
    model.prepare_training()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    step = TrainingStep(model, optimizer, device=device, amp_dtype=amp_dtype(cfg))
    batches = [next(loader) for _ in range(steps + 1)]
    for number, batch in enumerate(batches):
        if number == 1:  # the first warms up
            start, before = time.perf_counter(), time.process_time()
        step.backward([batch])
        step.apply()
        model.after_optimizer_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    images = steps * len(batches[0])
    print(
        f"  model: {images / (time.perf_counter() - start):.2f} images/s, "
        f"{images / (time.process_time() - before):.2f} a second of CPU",
        flush=True,
    )


def _processes() -> list:
    import psutil

    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that are still there."""
    times = [process.cpu_times() for process in _processes()]
    return sum(one.user + one.system for one in times)


def run_worker(arguments: argparse.Namespace) -> None:
    """One measurement; the last line of output is JSON."""
    figures = run_model_worker(arguments.worker, *arguments.words)
    print(json.dumps({"figures": figures, "megabytes": peak_megabytes(), **figures}))


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Command line to options; ``run`` is the function to call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="what")
    evaluation = commands.add_parser("evaluation", help="AP and oLRP at OpenForensics' scale")
    evaluation.add_argument("--seed", type=int, default=2021)
    evaluation.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    evaluation.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="measure them too"
    )
    evaluation.set_defaults(run=benchmark_evaluation)
    model = commands.add_parser("model", help="inference and training of detectors")
    model.add_argument("--size", type=int, default=512, help="side of the picture, pixels")
    model.add_argument("--threads", type=int, default=2)
    model.add_argument("--rounds", type=int, default=7)
    model.add_argument(
        "--models",
        nargs="+",
        default=DEFAULT,
        metavar="NAME",
        help="the first is what the others are compared with; after an @ how it is run: "
        f"{', '.join(SETTINGS)}; names: {', '.join([*OWN, TORCHVISION, DETECTRON2])}",
    )
    model.add_argument("--what", nargs="+", default=WHAT, choices=WHAT)
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    model.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: of the process")
    model.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    model.add_argument("--overrides", nargs="+", default=[], metavar="KEY VALUE", help="of ours")
    model.set_defaults(run=benchmark_model)
    loader = commands.add_parser("loader", help="images per second of the training loader")
    loader.add_argument("dataset", help="annotation file, e.g. output/train_demo/data/train.json")
    loader.add_argument("--config-file", help="YAML; default: comics/config/defaults.py")
    loader.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    loader.add_argument("--batches", type=int, default=100)
    loader.add_argument("--steps", type=int, default=0, help="training steps to compare with")
    loader.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    loader.set_defaults(run=benchmark_loader)
    faces = commands.add_parser("faces", help="face methods: batching, training step, banks")
    faces.add_argument("--encoder", default="efficientnet_b0", help="registered, or timm's")
    faces.add_argument("--size", type=int, default=224, help="side of a crop, pixels")
    faces.add_argument("--batch", type=int, default=8, help="faces of a training step")
    faces.add_argument("--threads", type=int, default=2)
    faces.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    faces.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: of the process")
    faces.add_argument("--methods", nargs="+", help="beside CrossEntropy; default: every one")
    faces.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    faces.add_argument("--rounds", type=int, default=7)
    faces.set_defaults(run=benchmark_faces)
    sizes = commands.add_parser("sizes", help="parameters and arithmetic of configurations")
    sizes.add_argument("configs", nargs="*", metavar="YAML", help="default: every R_50 detector")
    sizes.add_argument(
        "--shape", type=int, nargs=2, default=(800, 1088), metavar=("H", "W"), help="pixels"
    )
    sizes.set_defaults(run=benchmark_sizes)
    inference = commands.add_parser("inference", help="a video from file to file")
    inference.add_argument("--frames", type=int, default=16)
    inference.add_argument("--width", type=int, default=640, help="of the clip, pixels")
    inference.add_argument("--height", type=int, default=360)
    inference.add_argument("--min-size", type=int, default=192, help="short side that is seen")
    inference.add_argument("--batch", type=int, default=4, help="frames at once")
    inference.add_argument("--device", default="auto")
    inference.add_argument("--threads", type=int, default=1, help="of the model")
    inference.add_argument("--rounds", type=int, default=3)
    inference.set_defaults(run=benchmark_inference)
    worker = commands.add_parser("worker", help="one measurement (used internally)")
    worker.add_argument("worker")
    worker.add_argument("words", nargs="*")
    worker.set_defaults(run=run_worker)
    return parser.parse_args(words)


if __name__ == "__main__":
    options = parse_arguments()
    options.run(options)

#!/usr/bin/env python
"""Measure speed and memory; every figure is compared with a peer's in the same run.

  tools/benchmark.py evaluation   AP and oLRP at OpenForensics' scale, beside pycocotools
  tools/benchmark.py model        BlendMask, COMICS-BlendMask and torchvision's Mask R-CNN
  tools/benchmark.py loader       images per second by workers, and memory over an epoch
  tools/benchmark.py inference    a video from file to file, beside the model's own speed
  tools/benchmark.py faces        faces of a photo in one pass or one by one; methods beside CE
  tools/benchmark.py sizes        parameters and arithmetic of each configuration (no times)

Peak memory is measured in a fresh process of its own. Only ratios from one run mean anything:
absolute times move with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import torch
from benchmark_evaluation import benchmark_evaluation, peak_megabytes
from benchmark_faces import benchmark_faces
from benchmark_inference import benchmark_inference
from benchmark_sizes import benchmark_sizes
from torch import nn


def measure(worker: str, *words: str) -> dict:
    """Run one worker in a fresh process: its figures, ``seconds`` of wall time, ``megabytes``."""
    command = [sys.executable, __file__, "worker", worker, *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


# Inference and training scenes: faces of an image, and what a training step sees
SCENE_FACES, TRAIN_BATCH, DETECTIONS_SHOWN = 5, 2, 10
MODELS = ("BlendMask", "COMICSBlendMask", "Mask R-CNN (torchvision)")


def make_model(name: str, size: int) -> nn.Module:
    """A model with random weights, R-50 and FPN, frozen batch norms calibrated on noise."""
    from comics.config import load_config
    from comics.modeling.build import build_model

    torch.manual_seed(0)
    if name.startswith("Mask"):
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops import FrozenBatchNorm2d

        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
        )
        sides = {"min_size": size, "max_size": size}
        model = MaskRCNN(backbone, num_classes=3, box_detections_per_img=DETECTIONS_SHOWN, **sides)
    else:
        published = ["MODEL.FCOS.USE_SCALE", "False", "MODEL.FCOS.THRESH_WITH_CTR", "True"]
        shown = ["MODEL.FCOS.POST_NMS_TOPK_TEST", str(DETECTIONS_SHOWN)]
        every = ["MODEL.FCOS.INFERENCE_TH_TEST", "0.0"]
        cfg = load_config(overrides=["MODEL.META_ARCHITECTURE", name, *published, *shown, *every])
        model = build_model(cfg)
        detector = getattr(model, "detector", model)
        nn.init.constant_(detector.head.box_distances.bias, 6.0)  # boxes that are not empty
    calibrate(model, make_scene(size, 0)[0])
    if hasattr(model, "prepare_training"):
        model.prepare_training()
    return model


@torch.no_grad()
def calibrate(model: nn.Module, image: torch.Tensor) -> None:
    """Set frozen batch norms to what one image gives; without, random ResNets explode."""
    from torchvision.ops import FrozenBatchNorm2d

    from comics.modeling.layers import ConvNorm

    def set_statistics(norm: FrozenBatchNorm2d, x: torch.Tensor) -> None:
        norm.running_mean.copy_(x.mean((0, 2, 3)))
        norm.running_var.copy_(x.var((0, 2, 3)))

    hooks = []
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, FrozenBatchNorm2d):
            before = lambda conv, x: set_statistics(conv.norm, conv.conv(x[0]))  # noqa: E731
        elif isinstance(module, FrozenBatchNorm2d):
            before = lambda norm, x: set_statistics(norm, x[0])  # noqa: E731
        else:
            continue
        hooks.append(module.register_forward_pre_hook(before))
    model.eval()(as_input(model, image))
    for hook in hooks:
        hook.remove()


def as_input(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """A batch of one, on the scale that the model wants."""
    return [image / 255 if type(model).__name__ == "MaskRCNN" else image]


def make_scene(size: int, seed: int):
    """A noisy picture [3, size, size] uint8 with elliptical faces, and its ``Faces``."""
    from comics.structures import Faces

    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8))
    rows, columns = np.mgrid[:size, :size]
    boxes, masks = [], []
    for _ in range(SCENE_FACES):
        half = rng.uniform(0.05, 0.12) * size
        x, y = rng.uniform(half, size - half, 2)
        boxes.append([x - half, y - half, x + half, y + half])
        masks.append((columns - x) ** 2 + (rows - y) ** 2 < half**2)
    labels = torch.arange(SCENE_FACES) % 2
    faces = Faces(
        torch.tensor(boxes, dtype=torch.float32),
        (size, size),
        labels,
        masks=torch.from_numpy(np.stack(masks)),
    )
    return image, faces


def infer_once(model: nn.Module, size: int) -> None:
    """One picture, batch 1, to pasted masks."""
    with torch.inference_mode():
        model.eval()(as_input(model, make_scene(size, 0)[0]))


def train_once(model: nn.Module, size: int) -> None:
    """Forward, backward and SGD on two pictures."""
    model.train()
    images, targets = zip(*(make_scene(size, seed) for seed in range(TRAIN_BATCH)), strict=True)
    if type(model).__name__ == "MaskRCNN":
        truth = [
            {"boxes": f.boxes, "labels": f.labels + 1, "masks": f.masks.byte()} for f in targets
        ]
        losses = model([image / 255 for image in images], truth)
    else:
        keys = {"key_images": images} if getattr(model, "needs_key_images", False) else {}
        losses = model(images, targets, **keys).losses
    sum(losses.values()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-6 * parameter.grad
                parameter.grad = None
    getattr(model, "after_optimizer_step", lambda: None)()


def benchmark_model(arguments: argparse.Namespace) -> None:
    """Times of one inference and one training step, interleaved; peak memory of each alone."""
    torch.set_num_threads(arguments.threads)
    size, work = arguments.size, {"inference": infer_once, "training": train_once}
    models = {name: make_model(name, size) for name in MODELS}
    for model in models.values():
        model.to(memory_format=torch.channels_last)
    for what, function in work.items():
        times: dict[str, list[float]] = {name: [] for name in models}
        for round_number in range(arguments.rounds + 1):
            for name, model in models.items():
                start = time.perf_counter()
                function(model, size)
                if round_number:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
        print(f"{what}, {size}x{size}, {arguments.threads} threads, {arguments.rounds} rounds")
        for name, values in times.items():
            memory = measure(what, name, str(size), str(arguments.threads))["megabytes"]
            ratio = np.median(np.array(values) / np.array(times["BlendMask"]))
            print(
                f"  {name:26} median {np.median(values):.3f} s ({min(values):.3f}-"
                f"{max(values):.3f}), {ratio:.2f} x BlendMask, peak {memory:.0f} MB"
            )


def benchmark_loader(arguments: argparse.Namespace) -> None:
    """Images per second of the training loader by workers, and memory along an epoch."""
    import psutil

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
        start, memory = time.perf_counter(), []
        for step in range(arguments.batches):
            next(loader)
            if step % max(1, arguments.batches // 4) == 0:
                me = psutil.Process()
                memory.append(
                    sum(p.memory_full_info().pss for p in [me, *me.children(recursive=True)])
                )
        rate = arguments.batches * cfg.SOLVER.IMS_PER_BATCH / (time.perf_counter() - start)
        megabytes = ", ".join(f"{value / 2**20:.0f}" for value in memory)
        print(f"{workers} workers: {rate:.1f} images/s; memory of all processes {megabytes} MB")
        del loader


def run_model_worker(what: str, name: str, size: str, threads: str) -> dict[str, float]:
    """A few steps of one model alone, for its peak memory."""
    torch.set_num_threads(int(threads))
    model = make_model(name, int(size)).to(memory_format=torch.channels_last)
    for _ in range(3):
        (infer_once if what == "inference" else train_once)(model, int(size))
    return {}


def run_worker(arguments: argparse.Namespace) -> None:
    """One measurement; the last line of output is JSON."""
    figures = run_model_worker(arguments.worker, *arguments.words)
    print(json.dumps({"figures": figures, "megabytes": peak_megabytes()}))


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Command line to options; ``run`` is the function to call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="what")
    evaluation = commands.add_parser("evaluation", help="AP and oLRP at OpenForensics' scale")
    evaluation.add_argument("--seed", type=int, default=2021)
    evaluation.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    evaluation.set_defaults(run=benchmark_evaluation)
    model = commands.add_parser("model", help="inference and training of detectors")
    model.add_argument("--size", type=int, default=512, help="side of the picture, pixels")
    model.add_argument("--threads", type=int, default=2)
    model.add_argument("--rounds", type=int, default=7)
    model.set_defaults(run=benchmark_model)
    loader = commands.add_parser("loader", help="images per second of the training loader")
    loader.add_argument("dataset", help="annotation file, e.g. output/demo/data/train.json")
    loader.add_argument("--config-file", help="YAML; default: comics/config.py")
    loader.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    loader.add_argument("--batches", type=int, default=100)
    loader.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    loader.set_defaults(run=benchmark_loader)
    faces = commands.add_parser("faces", help="face methods: batching, training step, banks")
    faces.add_argument("--encoder", default="efficientnet_b0", help="registered, or timm's")
    faces.add_argument("--size", type=int, default=224, help="side of a crop, pixels")
    faces.add_argument("--batch", type=int, default=8, help="faces of a training step")
    faces.add_argument("--threads", type=int, default=2)
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

#!/usr/bin/env python
"""Measure speed and memory; every figure is compared with a peer's in the same run.

  tools/benchmark.py evaluation   AP and oLRP at OpenForensics' scale, beside pycocotools
  tools/benchmark.py model        BlendMask, COMICS-BlendMask and torchvision's Mask R-CNN
  tools/benchmark.py loader       images per second by workers, and memory over an epoch

Peak memory is measured in a fresh process of its own. Only ratios from one run mean anything:
absolute times move with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

# OpenForensics' test-dev split, and the detections of a detector on it
IMAGES, FACES, DETECTIONS = 18_895, 49_750, 102_066
HEIGHT, WIDTH = 810, 1080
OUTLINE_POINTS = 24  # of the polygon that approximates an oval face
FOUND = 0.93  # share of the faces that the made-up detector finds
CONFUSED = 0.1  # share of those that get the other class


def make_evaluation_set(folder: Path, seed: int, scale: float) -> tuple[Path, Path]:
    """Write a ground truth and results of OpenForensics' size x ``scale``; return their paths."""
    from comics.evaluation import ResultsWriter

    rng = np.random.default_rng(seed)
    images, faces, detections = (round(n * scale) for n in (IMAGES, FACES, DETECTIONS))
    image = np.sort(rng.integers(1, images + 1, faces))
    label = rng.integers(0, 2, faces)
    size = np.exp(rng.uniform(math.log(20), math.log(300), faces))
    place = np.column_stack((rng.uniform(0, WIDTH, faces), rng.uniform(0, HEIGHT, faces)))
    ovals = np.column_stack((place, size, size * 1.3))
    ground_truth = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": [
            {"id": number, "image_id": int(image[number - 1]), "iscrowd": 0, **shape}
            | {"category_id": int(label[number - 1])}
            for number, shape in enumerate(_shapes(ovals), start=1)
        ],
    }
    found = np.flatnonzero(rng.random(faces) < FOUND)
    wrong = detections - len(found)
    moved = ovals[found] + rng.normal(0, 0.06, (len(found), 4)) * size[found, None]
    spurious = np.column_stack(
        (
            rng.uniform(0, WIDTH, wrong),
            rng.uniform(0, HEIGHT, wrong),
            rng.uniform(20, 200, (wrong, 2)),
        )
    )
    flipped = rng.random(len(found)) < CONFUSED
    labels = np.concatenate((label[found] ^ flipped, rng.integers(0, 2, wrong)))
    owners = np.concatenate((image[found], rng.integers(1, images + 1, wrong)))
    scores = np.concatenate((rng.beta(5, 2, len(found)), rng.beta(1, 5, wrong)))
    truth_path, results_path = folder / "ground_truth.json", folder / "results.json"
    truth_path.write_text(json.dumps(ground_truth))
    with ResultsWriter(results_path) as writer:
        for i, shape in enumerate(_shapes(np.concatenate((moved, spurious)))):
            del shape["area"]
            entry = {"image_id": int(owners[i]), "category_id": int(labels[i])}
            writer.write([entry | {"score": round(float(scores[i]), 5)} | shape])
    return truth_path, results_path


def _shapes(ovals: np.ndarray):
    """Box, area and RLE of each oval (centre x, centre y, width, height) clipped to the image."""
    from pycocotools import mask as coco_mask

    angle = np.linspace(0, 2 * math.pi, OUTLINE_POINTS, endpoint=False)
    circle = np.column_stack((np.cos(angle), np.sin(angle))) / 2
    for x, y, width, height in ovals:
        outline = circle * np.maximum((width, height), 4) + (x, y)
        outline = outline.clip(1, (WIDTH - 1, HEIGHT - 1))
        rle = coco_mask.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH)[0]
        corner, extent = outline.min(axis=0), np.ptp(outline, axis=0).clip(1)
        yield {
            "bbox": [round(float(n), 2) for n in (*corner, *extent)],
            "area": int(coco_mask.area(rle)),
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")},
        }


def run_ours(truth: str, results: str) -> dict[str, float]:
    """Boxes and masks, AP and oLRP of all sizes, by this package."""
    from comics.evaluation import evaluate

    metrics = evaluate(truth, results, ("bbox", "segm"))
    return {f"{mode} {name}": metrics.modes[mode].overall[name] for mode in ("bbox", "segm")
            for name in ("AP", "AP_S", "AP_M", "AP_L", "oLRP")}  # fmt: skip


def run_pycocotools(truth: str, results: str, mode: str) -> dict[str, float]:
    """AP alone, of one mode, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth = COCO(truth)
    entries = json.loads(Path(results).read_text())
    if mode == "segm":
        for entry in entries:
            del entry["bbox"]
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(entries), mode)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", None, None, "AP_S", "AP_M", "AP_L")
    return {f"{mode} {name}": v for name, v in zip(names, evaluation.stats, strict=False) if name}


def measure(worker: str, *words: str) -> dict:
    """Run one worker in a fresh process: its figures, ``seconds`` of wall time, ``megabytes``."""
    command = [sys.executable, __file__, "worker", worker, *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def benchmark_evaluation(arguments: argparse.Namespace) -> None:
    """Compare our evaluation with pycocotools on a made-up set, in the same run."""
    with tempfile.TemporaryDirectory() as folder:
        paths = make_evaluation_set(Path(folder), arguments.seed, arguments.scale)
        words = [str(path) for path in paths]
        ours = measure("ours", *words)
        boxes, masks = (measure("pycocotools", *words, mode) for mode in ("bbox", "segm"))
    official = boxes["figures"] | masks["figures"]
    gap = max(abs(ours["figures"][name] - value) for name, value in official.items())
    theirs = boxes["seconds"] + masks["seconds"]
    print(f"ours, AP + oLRP, box + mask: {ours['seconds']:.2f} s, {ours['megabytes']:.0f} MB")
    print(f"pycocotools, AP, box: {boxes['seconds']:.2f} s, {boxes['megabytes']:.0f} MB")
    print(f"pycocotools, AP, mask: {masks['seconds']:.2f} s, {masks['megabytes']:.0f} MB")
    print(f"ratio (pycocotools box + mask / ours): {theirs / ours['seconds']:.2f}")
    print(f"largest difference of an AP: {gap:.1e}")
    print(json.dumps(ours["figures"]))


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
        model = MaskRCNN(
            backbone, num_classes=3, box_detections_per_img=DETECTIONS_SHOWN, **sides
        )
    else:
        published = ["MODEL.FCOS.USE_SCALE", "False", "MODEL.FCOS.THRESH_WITH_CTR", "True"]
        shown = ["MODEL.FCOS.POST_NMS_TOPK_TEST", str(DETECTIONS_SHOWN)]
        every = ["MODEL.FCOS.INFERENCE_TH_TEST", "0.0"]
        cfg = load_config(
            overrides=["MODEL.META_ARCHITECTURE", name, *published, *shown, *every]
        )
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
    if arguments.worker in ("inference", "training"):
        figures = run_model_worker(arguments.worker, *arguments.words)
    else:
        runners = {"ours": run_ours, "pycocotools": run_pycocotools}
        figures = runners[arguments.worker](*arguments.words)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"figures": figures, "megabytes": peak}))


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
    worker = commands.add_parser("worker", help="one measurement (used internally)")
    worker.add_argument("worker")
    worker.add_argument("words", nargs="*")
    worker.set_defaults(run=run_worker)
    return parser.parse_args(words)


if __name__ == "__main__":
    options = parse_arguments()
    options.run(options)

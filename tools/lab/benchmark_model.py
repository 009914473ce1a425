"""``tools/lab/benchmark.py model``: inference and training steps of detectors, beside their peers.

Shape letters: H, W height and width of the picture (equal here).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def measure(worker: str, *words: str) -> dict:
    """Run one worker in a fresh process: its figures, ``seconds`` of wall time, ``megabytes``."""
    command = [sys.executable, str(PROGRAM), "worker", worker, *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


PROGRAM = Path(__file__).with_name("benchmark.py")
# Inference and training scenes: faces of an image, and what a training step sees
SCENE_FACES, TRAIN_BATCH, DETECTIONS_SHOWN = 5, 2, 10
TORCHVISION, DETECTRON2 = "torchvision", "detectron2"  # their own Mask R-CNN
PUBLISHED = {
    "FCOS": "FCOS/R_50_1x.yaml", "BlendMask": "BlendMask/R_50_1x.yaml",
    "CondInst": "CondInst/R_50_1x.yaml", "MEInst": "MEInst/R_50_1x.yaml",
    "SOLOv2": "SOLOv2/R_50_1x.yaml", "MaskRCNN": "Mask-RCNN/R_50_FPN_1x.yaml",
    "MaskScoringRCNN": "MS-RCNN/R_50_FPN_1x.yaml", "CenterMask": "CenterMask/R_50_1x.yaml",
    "SOLO": "SOLO/R_50_1x.yaml", "RetinaMask": "RetinaMask/R_50_1x.yaml",
    "YOLACT": "YOLACT/R_50_1x.yaml", "YOLACTPlusPlus": "YOLACT-PlusPlus/R_50_1x.yaml",
    "PolarMask": "PolarMask/R_50_1x.yaml",
}  # fmt: skip
WITHOUT_COMICS = ("FCOS",)  # no masks, and no published configuration
OWN = [*PUBLISHED, *(f"COMICS{name}" for name in PUBLISHED if name not in WITHOUT_COMICS)]
DEFAULT = ("BlendMask", "COMICSBlendMask", "MaskRCNN", "COMICSMaskRCNN", TORCHVISION, DETECTRON2)
# How a model is run, after an "@": "BlendMask@bfloat16"
SETTINGS = ("contiguous", "bfloat16", "float16", "compiled")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def make_model(name: str, size: int, words: Sequence[str] = ()) -> nn.Module:
    """A model with random weights, R-50 and FPN, frozen batch norms calibrated on noise.

    Every image gets ``DETECTIONS_SHOWN`` faces, whatever the scores, of models that rank boxes.

    Args:
        name: of ``OWN``, or a peer's.
        size: side of the pictures.
        words: further KEY VALUE of our own models.
    """
    torch.manual_seed(0)
    if name in (TORCHVISION, DETECTRON2):
        model = (make_torchvision if name == TORCHVISION else make_detectron2)(name, size)
    else:
        model = make_own(name, words)
    calibrate(model, make_scene(size, 0)[0])
    if hasattr(model, "prepare_training"):
        model.prepare_training()
    return model


def make_torchvision(name: str, size: int) -> nn.Module:
    """torchvision's Mask R-CNN; it resizes by itself, here not at all."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
    )
    sides = {"min_size": size, "max_size": size}
    return MaskRCNN(backbone, num_classes=3, box_detections_per_img=DETECTIONS_SHOWN, **sides)


def make_detectron2(name: str, size: int) -> nn.Module:
    """Detectron2's Mask R-CNN, the R-50 FPN of its model zoo."""
    from comics.integrations.detectron2.benchmark import zoo_mask_rcnn

    return zoo_mask_rcnn(num_classes=2, detections=DETECTIONS_SHOWN)


def make_own(name: str, words: Sequence[str]) -> nn.Module:
    """A detector of ours, published configuration with changes, plain or with COMICS."""
    from comics.config import load_config
    from comics.modeling.build import build_model

    plain = name.removeprefix("COMICS")
    path = CONFIGS / PUBLISHED[plain]
    if name != plain:
        path = path.parents[1] / f"COMICS-{path.parent.name}" / path.name
    every = ["MODEL.FCOS.SCORE_THRESH_TEST", "0.0", "MODEL.WEIGHTS", ""]
    every += ["MODEL.MEInst.PATH_COMPONENTS", ""]
    every += ["MODEL.FCOS.POST_NMS_TOPK_TEST", str(DETECTIONS_SHOWN)]
    every += ["TEST.DETECTIONS_PER_IMAGE", str(DETECTIONS_SHOWN)]
    model = build_model(load_config(path, [*every, *words]))
    detector = getattr(model, "detector", model)
    if plain == "BlendMask":
        nn.init.constant_(detector.head.box_distances.bias, 6.0)  # boxes that are not empty
    return model


@torch.no_grad()
def calibrate(model: nn.Module, image: torch.Tensor) -> None:
    """Set frozen batch norms to what one image gives; without, random ResNets explode."""
    from comics.modeling.layers import ConvNorm

    def is_frozen_norm(module: nn.Module) -> bool:  # Detectron2 has a class of its own
        return type(module).__name__ == "FrozenBatchNorm2d"

    def set_statistics(norm: nn.Module, x: torch.Tensor) -> None:
        norm.running_mean.copy_(x.mean((0, 2, 3)))
        norm.running_var.copy_(x.var((0, 2, 3)))

    hooks = []
    for module in model.modules():
        if isinstance(module, ConvNorm) and is_frozen_norm(module.norm):
            before = lambda conv, x: set_statistics(conv.norm, conv.conv(x[0]))  # noqa: E731
        elif is_frozen_norm(module):
            before = lambda norm, x: set_statistics(norm, x[0])  # noqa: E731
        else:
            continue
        hooks.append(module.register_forward_pre_hook(before))
    model.eval()(as_input(model, image))
    for hook in hooks:
        hook.remove()


def as_input(model: nn.Module, image: torch.Tensor) -> list:
    """A batch of one, as the model wants it."""
    if is_torchvision(model):
        return [image / 255]
    return [{"image": image.flip(0)}] if is_detectron2(model) else [image]


def is_torchvision(model: nn.Module) -> bool:
    """Whether its images lie in [0, 1] and its targets are dictionaries."""
    return type(model).__module__.startswith("torchvision")


def is_detectron2(model: nn.Module) -> bool:
    """Whether its inputs are dictionaries."""
    return type(model).__module__.startswith("detectron2")


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


@dataclass(frozen=True)
class Runner:
    """A model as it is run: where, and in which precision.

    Attributes:
        model: on ``device``.
        images, targets: of a training step, there too.
        dtype: of mixed precision; None for none.
    """

    model: nn.Module
    images: list[Tensor]
    targets: list
    device: torch.device
    dtype: torch.dtype | None

    @classmethod
    def of(cls, name: str, size: int, device: torch.device, words: Sequence[str] = ()) -> Runner:
        """The model of a name, with ``SETTINGS`` after an "@"."""
        from comics.engine.compilation import compile_features

        name, *settings = name.split("@")
        unknown = [one for one in settings if one not in SETTINGS]
        if unknown:
            raise SystemExit(f"{unknown[0]!r} is none of {', '.join(SETTINGS)}")
        model = make_model(name, size, words).to(device)
        if "contiguous" not in settings:
            model.to(memory_format=torch.channels_last)
        if "compiled" in settings:
            compile_features(model, device)
        half = next((one for one in settings if one in ("bfloat16", "float16")), None)
        pairs = [make_scene(size, seed) for seed in range(TRAIN_BATCH)]
        images = [image.to(device) for image, _ in pairs]
        targets = [faces.to(device) for _, faces in pairs]
        return cls(model, images, targets, device, half and getattr(torch, half))

    def infer(self) -> None:
        """One picture, batch 1, to drawn masks."""
        with torch.inference_mode(), self._autocast():
            self.model.eval()(as_input(self.model, self.images[0]))
        self._wait()

    def train(self) -> None:
        """Forward, backward and SGD on two pictures."""
        with self._autocast():
            losses = self._losses()
        sum(losses.values()).backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-6 * parameter.grad
                    parameter.grad = None
        getattr(self.model, "after_optimizer_step", lambda: None)()
        self._wait()

    def _losses(self) -> dict[str, Tensor]:
        model, images, targets = self.model.train(), self.images, self.targets
        if is_detectron2(model):
            from comics.integrations.detectron2.benchmark import training_losses

            return training_losses(model, images, targets)
        if is_torchvision(model):
            truth = [
                {"boxes": f.boxes, "labels": f.labels + 1, "masks": f.masks.byte()} for f in targets
            ]
            return model([image / 255 for image in images], truth)
        keys = {"key_images": images} if getattr(model, "needs_key_images", False) else {}
        return model(images, targets, **keys).losses

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def benchmark_model(arguments: argparse.Namespace) -> None:
    """Times of one inference and one training step, interleaved; peak memory of each alone."""
    from comics.modeling.build import choose_device

    torch.set_num_threads(arguments.threads)
    device, clock = choose_device(arguments.device), CLOCKS[arguments.clock]
    first, size = arguments.models[0], arguments.size
    runners = {
        name: Runner.of(name, size, device, arguments.overrides) for name in arguments.models
    }
    for what in arguments.what:
        times: dict[str, list[float]] = {name: [] for name in runners}
        for round_number in range(arguments.rounds + 1):
            for name, runner in runners.items():
                start = clock()
                (runner.infer if what == "inference" else runner.train)()
                if round_number:  # the first round warms up
                    times[name].append(clock() - start)
        print(
            f"{what}, {size}x{size}, {device}, {arguments.threads} threads, {arguments.rounds} "
            f"rounds, {arguments.clock} clock",
            flush=True,
        )
        for name, values in times.items():
            peak = _peak(what, name, arguments) if arguments.memory else ""
            ratio = np.median(np.array(values) / np.array(times[first]))
            print(
                f"  {name:26} median {np.median(values):.3f} s ({min(values):.3f}-"
                f"{max(values):.3f}), {ratio:.2f} x {first}{peak}",
                flush=True,
            )


def _peak(what: str, name: str, arguments: argparse.Namespace) -> str:
    words = (what, name, str(arguments.size), str(arguments.threads), arguments.device)
    return f", peak {measure(*words, *arguments.overrides)['megabytes']:.0f} MB"


def run_model_worker(
    what: str, name: str, size: str, threads: str, device: str, *words: str
) -> dict[str, float]:
    """A few steps of one model alone, for its peak memory, on a GPU the GPU's."""
    from comics.modeling.build import choose_device

    torch.set_num_threads(int(threads))
    place = choose_device(device)
    runner = Runner.of(name, int(size), place, words)
    for _ in range(3):
        (runner.infer if what == "inference" else runner.train)()
    if place.type == "cuda":
        return {"megabytes": torch.cuda.max_memory_allocated(place) / 2**20}
    return {}

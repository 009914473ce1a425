"""``benchmark.py faces``: faces of a photo in one pass or one by one; methods beside CE."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from benchmark_model import CLOCKS
from torch import nn

from comics.structures import FaceBatch

FACE_COUNTS = (1, 2, 4, 8, 16)
PHOTO = (800, 1200)  # height and width, pixels
FACE_SIDES = (40, 300)  # pixels, of the faces in it
BASELINE = "CrossEntropy"
PARTS = ("batching", "training")
MEGABYTE = 2**20


def benchmark_faces(arguments: argparse.Namespace) -> None:
    """Print the figures of both parts; ratios are medians over interleaved rounds."""
    from comics.modeling.build import choose_device

    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    print(
        f"encoder {arguments.encoder}, crops of {arguments.size}, {device}, {arguments.threads} "
        f"threads, {arguments.clock} clock",
        flush=True,
    )
    clock = partial(_seconds, CLOCKS[arguments.clock], device)
    if "batching" in arguments.parts:
        compare_batching(arguments, device, clock)
    if "training" in arguments.parts:
        compare_training(arguments, device, clock)


def _seconds(clock: Callable[[], float], device: torch.device) -> float:
    """The time once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def build_method(arguments: argparse.Namespace, name: str) -> nn.Module:
    """A face method of random weights."""
    from comics.config import load_config
    from comics.modeling.faces.build import build_face_method

    torch.manual_seed(0)
    options = ["METHOD", name, "ENCODER", arguments.encoder, "CROP_SIZE", str(arguments.size)]
    keys = [f"MODEL.FACE.{word}" if i % 2 == 0 else word for i, word in enumerate(options)]
    method = build_face_method(load_config(None, keys))
    return method.to(memory_format=torch.channels_last)


def compare_batching(
    arguments: argparse.Namespace, device: torch.device, clock: Callable[[], float]
) -> None:
    """Crops and P(fake) of the faces of one photo: all in one pass, or a pass for each."""
    from comics.modeling.face_forensics import FaceForensics

    model = FaceForensics(nn.Identity(), build_method(arguments, BASELINE)).eval().to(device)
    rng = np.random.default_rng(0)
    photo = torch.from_numpy(rng.integers(0, 256, (3, *PHOTO), dtype=np.uint8)).to(device)
    sides = rng.uniform(*FACE_SIDES, max(FACE_COUNTS))
    room = np.column_stack((PHOTO[1] - sides, PHOTO[0] - sides))
    corners = rng.uniform(0, 1, room.shape) * room
    boxes = torch.tensor(np.column_stack((corners, corners + sides[:, None])), dtype=torch.float32)
    boxes = boxes.to(device)

    def together(count: int) -> None:
        model.face_probability([photo], [boxes[:count]])

    def apart(count: int) -> None:
        for box in boxes[:count]:
            model.face_probability([photo], [box[None]])

    work = {
        f"{name} {count}": (lambda f=f, n=count: f(n))
        for count in FACE_COUNTS
        for name, f in (("together", together), ("apart", apart))
    }
    with torch.inference_mode():
        times = interleaved(work, arguments.rounds, clock)
    one = np.median(times["together 1"])
    print("faces of a photo: one pass for all, beside a pass for each")
    for count in FACE_COUNTS:
        batch, single = times[f"together {count}"], times[f"apart {count}"]
        ratio = np.median(batch / single)
        extra = (np.median(batch) - one) / max(count - 1, 1)
        print(
            f"  {count:2} faces: {1e3 * np.median(batch):8.1f} ms, one by one "
            f"{1e3 * np.median(single):8.1f} ms, ratio {ratio:.2f}; each extra face "
            f"{1e3 * extra:.1f} ms"
        )


def compare_training(
    arguments: argparse.Namespace, device: torch.device, clock: Callable[[], float]
) -> None:
    """A training step of each method, and what it keeps beside its encoder."""
    import comics.modeling.faces  # noqa: F401  registers them
    from comics.registry import FACE_METHODS

    names = arguments.methods or sorted(name for name, _ in FACE_METHODS if name != BASELINE)
    methods = {
        name: build_method(arguments, name).train().to(device) for name in (BASELINE, *names)
    }
    for method in methods.values():
        method.prepare_training()
        method.start_epoch(0)
    work = {
        name: partial(train_once, method, random_batch(method, arguments.batch).to(device))
        for name, method in methods.items()
    }
    times = interleaved(work, arguments.rounds, clock)
    print(f"training step of {arguments.batch} faces, beside {BASELINE} with the same encoder")
    for name, method in methods.items():
        ratio = np.median(times[name] / times[BASELINE])
        kept = ", ".join(
            f"{part} {size / MEGABYTE:.1f} MB" for part, size in kept_bytes(method).items()
        )
        print(
            f"  {name:20} median {np.median(times[name]):.3f} s, {ratio:.2f} x; "
            f"kept: {kept or 'nothing'}"
        )


def train_once(method: nn.Module, batch: FaceBatch) -> None:
    """Forward, backward and a plain step."""
    sum(method(batch).losses.values()).backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 1e-6 * parameter.grad
                parameter.grad = None
    method.after_optimizer_step()


def random_batch(method: nn.Module, size: int) -> FaceBatch:
    """Noise with every view that the method asks for; reals and fakes in turn."""
    side = method.crop_size
    labels = torch.arange(size) % 2
    images = {
        name: torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
        for name in ("images", *method.views)
    }
    masks = torch.zeros(size, side, side, dtype=torch.bool)
    masks[:, side // 4 : -side // 4, side // 4 : -side // 4] = True
    known = torch.ones(size, dtype=torch.bool)
    numbers = torch.arange(size)
    return FaceBatch(
        images=images.pop("images"),
        labels=labels,
        views=images,
        valid=dict.fromkeys((*images, "mask"), known),
        masks=masks & (labels == 1)[:, None, None],
        methods=labels * (1 + numbers % 4),
        clusters=numbers % 3,
        videos=numbers,
        sources=numbers,
        targets=numbers,
        file_names=[f"face {i}" for i in range(size)],
    )


def kept_bytes(method: nn.Module) -> dict[str, int]:
    """What exists in training only, by part: key encoders, banks, guides, ..."""
    sizes = {
        name: sum(t.numel() * t.element_size() for t in module.state_dict().values())
        for name, module in method.training_only.items()
    }
    return {name: size for name, size in sizes.items() if name != "clock" and size}


def interleaved(
    work: Mapping[str, Callable[[], None]], rounds: int, clock: Callable[[], float]
) -> dict[str, np.ndarray]:
    """Seconds of each piece of work in each round; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, function in work.items():
            start = clock()
            function()
            if number:
                times[name].append(clock() - start)
    return {name: np.array(values) for name, values in times.items()}

#!/usr/bin/env python
"""What a GPU does with this package: does it compute the same, does it train, how fast is it.

One command for a machine that is there for minutes. Checks run in this order, until --minutes are
over; after every row gpu_check.json and gpu_check.md are written, so that a run that is cut short
tells what it saw:

  machine     names, versions, memory, and the rate of a large matrix product (the floor below)
  nccl        one process in a group: sums and gathers (gloo where there is no CUDA)
  speed       pictures a second of BlendMask and COMICS-BlendMask, R-50: inference and training, in
              float32, TF32, and mixed precision, with peak memory and the share of the floor
  waits       synchronisations of a training step
  detectors   every detector, plain and as its COMICS variant: the maps of its head on the GPU
              against the CPU's, and a training step whose losses are finite
  faces       the same of every face method: logits
  precision   maps in float16 and bfloat16 against float32
  compile     the compiled backbone: seconds to compile, pictures a second, difference
  video       decode, look, encode: frames a second

Without CUDA it runs on the CPU, with small pictures and networks: a test of itself.

Exit code: 0 all rows are right; 1 some are not, or raised an error (named in the table).

Examples:
  tools/lab/gpu_check.py --minutes 8 --output gpu_check
  tools/lab/gpu_check.py --device cpu --checks machine detectors --output out
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "lab")]

from benchmark_model import calibrate, make_scene  # noqa: E402
from count_waits import NARROW, count_step  # noqa: E402

from comics.structures import Faces  # noqa: E402

CONFIGS = ROOT / "configs"
EXIT_FAULTS = 1
# Networks of parity checks: a shallow ResNet shows the same operators
SHALLOW = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
           "MODEL.BACKBONE.FREEZE_AT", "0"]  # fmt: skip
CALIBRATED_SIDE = 128  # pixels of the picture that frozen norms get their statistics from
FACE_METHOD = ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.ENCODER", "SmallResNet"]
NO_FILES = ["MODEL.WEIGHTS", "", "MODEL.MEInst.PATH_COMPONENTS", ""]
SAME = 1e-3  # largest difference of float32 maps, as a share of the largest value (TF32 is off)
# Mean difference in mixed precision, ten and seven bits of mantissa, through some fifty layers
SAME_HALF, SAME_BFLOAT = 0.02, 0.15
TIMED = ("BlendMask/R_50_1x.yaml", "COMICS-BlendMask/R_50_1x.yaml")
PRECISE = ("BlendMask", "COMICS-BlendMask", "COMICS-Mask-RCNN")  # compared in mixed precision
MOST_WAITS = 20  # synchronisations of a training step
BACKWARD_SHARE = 2.0  # of a forward pass's operations, a backward pass needs so many times more


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        side: pixels of parity checks.
        timed_side: of timed pictures, which are square.
        batch: pictures of a timed training step.
        crops: of a face method.
        matrix: rows of the matrices whose product is timed.
        repeats: of what is timed.
        shallow: whether the timed networks are.
        frames: of the video.
    """

    side: int = 256
    timed_side: int = 1024
    batch: int = 4
    crops: int = 16
    matrix: int = 8192
    repeats: int = 10
    shallow: bool = False
    frames: int = 120


SMALL = Scale(96, 128, 2, 4, 256, 1, shallow=True, frames=4)


@dataclass(frozen=True)
class Row:
    """One thing that was seen; ``right`` None: a figure without a right or wrong."""

    check: str
    subject: str
    what: str
    value: float | str
    unit: str = ""
    right: bool | None = None


@dataclass
class Record:
    """All rows so far, in files after each of them."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, *values, right: bool | None = None) -> None:
        """A row: check, subject, what, value, unit."""
        row = Row(*values, right=right)
        self.rows.append(row)
        mark = "" if right is None else ("  ok" if right else "  WRONG")
        shown = f"{row.value:.4g}" if isinstance(row.value, float) else row.value
        print(f"{time.monotonic() - self.started:6.0f} s  {row.check:10} {row.subject:32} "
              f"{row.what}: {shown} {row.unit}{mark}", flush=True)  # fmt: skip
        self.write()

    def write(self) -> None:
        """Both files, each replaced when it is whole."""
        from comics.files import atomic_path

        with atomic_path(self.folder / "gpu_check.json") as path:
            path.write_text(json.dumps([asdict(row) for row in self.rows], indent=1), "utf-8")
        with atomic_path(self.folder / "gpu_check.md") as path:
            path.write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """A table."""
        lines = ["| check | of | what | value | right |", "|---|---|---|---:|---|"]
        for row in self.rows:
            shown = f"{row.value:.4g}" if isinstance(row.value, float) else row.value
            right = {None: "", True: "yes", False: "**no**"}[row.right]
            lines.append(
                f"| {row.check} | {row.subject} | {row.what} | {shown} {row.unit} | {right} |"
            )
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Bench:
    """What every check gets."""

    device: torch.device
    scale: Scale
    record: Record

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call of ``work``: the mean after two calls to warm up."""
        for _ in range(2):
            work()
        self.wait()
        start = time.perf_counter()
        for _ in range(self.scale.repeats):
            work()
        self.wait()
        return (time.perf_counter() - start) / self.scale.repeats


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=8, help="no check begins after (8)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu")
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--only", metavar="TEXT", default="", help="models whose name has it")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; returns the exit code."""
    from comics.modeling.build import choose_device

    options = build_parser().parse_args(arguments)
    device = choose_device(options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    record = Record(options.output)
    bench = Bench(device, Scale() if device.type == "cuda" else SMALL, record)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    end = record.started + 60 * options.minutes
    for name in options.checks:
        for subject, work in CHECKS[name](bench):
            if options.only not in subject:
                continue
            if time.monotonic() > end:
                record.add(name, subject, "left out", f"{options.minutes:g} minutes are over")
                continue
            try:
                work()
            # Whatever it is, the rest is to be seen too
            except Exception as error:
                traceback.print_exc()
                first = str(error).strip().splitlines() or [""]
                record.add(name, subject, "error", f"{type(error).__name__}: {first[0][:200]}",
                           right=False)  # fmt: skip
            finally:
                if bench.cuda:
                    torch.cuda.empty_cache()
    wrong = [row for row in record.rows if row.right is False]
    print(f"{len(record.rows)} rows, {len(wrong)} not right: {options.output / 'gpu_check.md'}")
    return EXIT_FAULTS if wrong else 0


Work = Iterator[tuple[str, Callable[[], None]]]


# --- the machine ---------------------------------------------------------------------------------


def machine(bench: Bench) -> Work:
    """Names, versions, and what the floor is."""
    yield "software", partial(_describe, bench)
    for name, dtype, tf32 in _precisions(bench):
        subject = f"matrix product, {name}"
        yield subject, partial(_measure_product, bench, subject, dtype, tf32)


def _describe(bench: Bench) -> None:
    add = bench.record.add
    python = f"{torch.__version__}, Python {platform.python_version()}"
    add("machine", "software", "PyTorch", python)
    add("machine", "software", "commit", _commit())
    if bench.cuda:
        properties = torch.cuda.get_device_properties(bench.device)
        add("machine", properties.name, "memory", properties.total_memory / 2**30, "GiB")
        add("machine", properties.name, "CUDA", str(torch.version.cuda))
    add("machine", "CPU", "threads", float(torch.get_num_threads()))


def _measure_product(bench: Bench, subject: str, dtype: torch.dtype, tf32: bool) -> None:
    with _tf32(tf32):
        found = matmul_rate(bench, dtype)
    bench.record.add("machine", subject, "rate", found / 1e12, "TFLOP/s")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def matmul_rate(bench: Bench, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product; a multiplication and a sum are two."""
    rows = bench.scale.matrix
    one, other = (torch.randn(rows, rows, device=bench.device).to(dtype) for _ in range(2))
    return 2 * rows**3 / bench.seconds(lambda: one @ other)


def _precisions(bench: Bench) -> list[tuple[str, torch.dtype, bool]]:
    """Name, type of mixed precision (float32: none), and whether TF32 is on."""
    if not bench.cuda:
        return [("float32", torch.float32, False), ("bfloat16", torch.bfloat16, False)]
    return [
        ("float32", torch.float32, False), ("TF32", torch.float32, True),
        ("float16", torch.float16, False), ("bfloat16", torch.bfloat16, False),
    ]  # fmt: skip


@contextlib.contextmanager
def _tf32(on: bool) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _autocast(bench: Bench, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(bench.device.type, dtype=dtype)


# --- several processes ---------------------------------------------------------------------------


def nccl(bench: Bench) -> Work:
    """A group of one process."""
    yield "group", partial(_exchange, bench)


def _exchange(bench: Bench) -> None:
    import torch.distributed as dist

    name = "nccl" if bench.cuda else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(name, f"file://{folder}/group", rank=0, world_size=1)
        try:
            values = torch.arange(5.0, device=bench.device)
            total = values.clone()
            dist.all_reduce(total)
            gathered = [torch.empty_like(values)]
            dist.all_gather(gathered, values)
            dist.barrier()
            same = torch.equal(total, values) and torch.equal(gathered[0], values)
            bench.record.add("nccl", name, "sum and gather of one process", "done", right=same)
        finally:
            dist.destroy_process_group()


# --- models --------------------------------------------------------------------------------------


def published() -> dict[str, Path]:
    """Name of a detector's configuration folder -> its R-50 configuration, plain and COMICS."""
    found = {}
    for folder in sorted(CONFIGS.iterdir()):
        files = sorted(folder.glob("R_50*_1x.yaml"))
        if files and folder.name not in ("Detectron2",):
            found[folder.name] = files[0]
    return found


def make_detector(path: Path, *words: str) -> nn.Module:
    """With random weights, on the CPU, its norms calibrated on noise, prepared for training."""
    from comics.config import load_config
    from comics.modeling.build import build_model

    torch.manual_seed(0)
    model = build_model(load_config(path, [*NO_FILES, *words]))
    calibrate(model, make_scene(CALIBRATED_SIDE, 0)[0])
    model.prepare_training()
    return model


def scenes(side: int, count: int) -> tuple[list[Tensor], list[Faces]]:
    """Pictures [3, side, side] uint8 with round faces, real and forged, and their faces."""
    images, targets = zip(*(make_scene(side, seed) for seed in range(count)), strict=True)
    return list(images), list(targets)


@torch.no_grad()
def dense_maps(model: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
    """What the detector's head computes for whole images, on the CPU, float32."""
    detector, kept = getattr(model, "detector", model), {}
    original = detector.dense

    def dense(features: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.update(original(features))
        return dict(kept)

    detector.dense = dense
    try:
        model.eval()(images)
    finally:
        del detector.dense
    return {name: value.float().cpu() for name, value in kept.items()}


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest, each map's as a share of its largest value."""
    return max(
        ((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-6)).item()
        for name, value in wanted.items()
        if value.numel()
    )


def mean_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The mean of all maps together, as a share of their mean absolute value."""
    off = sum((found[name] - value).abs().sum().item() for name, value in wanted.items())
    return off / max(sum(value.abs().sum().item() for value in wanted.values()), 1e-6)


def training_losses(model: nn.Module, images: list[Tensor], targets: list) -> dict[str, Tensor]:
    """Of one forward pass in training."""
    keys = {"key_images": images} if getattr(model, "needs_key_images", False) else {}
    return model.train()(images, targets, **keys).losses


def training_step(model: nn.Module, images: list[Tensor], targets: list) -> dict[str, Tensor]:
    """Forward, backward, a small step, and what follows it."""
    losses = training_losses(model, images, targets)
    sum(losses.values()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-6 * parameter.grad
                parameter.grad = None
    model.after_optimizer_step()
    return losses


def on(device: torch.device, images: list[Tensor], targets: list) -> tuple[list[Tensor], list]:
    """Pictures and faces on the device."""
    return [image.to(device) for image in images], [faces.to(device) for faces in targets]


def detectors(bench: Bench) -> Work:
    """Every detector on both devices."""
    for name, path in published().items():
        yield name, partial(_compare_detector, bench, name, path)


def _compare_detector(bench: Bench, name: str, path: Path) -> None:
    add = partial(bench.record.add, "detectors", name)
    model = make_detector(path, *SHALLOW)
    images, targets = scenes(bench.scale.side, 2)
    wanted = dense_maps(model, images)
    model.to(bench.device)
    here, faces = on(bench.device, images, targets)
    worst = difference(dense_maps(model, here), wanted)
    add("largest difference from the CPU", worst, right=worst < SAME)
    losses = training_step(model, here, faces)
    finite = all(bool(loss.isfinite()) for loss in losses.values())
    add("losses of a training step", float(sum(losses.values())), right=finite)


def faces(bench: Bench) -> Work:
    """Every face method on both devices."""
    import comics.modeling.faces  # noqa: F401  registers them
    from comics.registry import FACE_METHODS

    for name in sorted(name for name, _ in FACE_METHODS):
        yield name, partial(_compare_face_method, bench, name)


def _compare_face_method(bench: Bench, name: str) -> None:
    from comics.config import load_config
    from comics.modeling.build import build_model

    torch.manual_seed(0)
    side = min(bench.scale.side, 128)
    words = [*FACE_METHOD, "MODEL.FACE.METHOD", name, "MODEL.FACE.CROP_SIZE", str(side)]
    method = build_model(load_config(overrides=words)).eval()
    crops = torch.rand(bench.scale.crops, 3, side, side) * 255
    with torch.no_grad():
        wanted = method(crops)
        found = method.to(bench.device)(crops.to(bench.device)).cpu()
    worst = difference({"logits": found}, {"logits": wanted})
    bench.record.add("faces", name, "largest difference from the CPU", worst, right=worst < SAME)


def precision(bench: Bench) -> Work:
    """Maps in mixed precision against float32, on the device."""
    for name, path in published().items():
        for kind, dtype, _ in _precisions(bench):
            if name in PRECISE and dtype != torch.float32:
                subject = f"{name}, {kind}"
                yield subject, partial(_compare_precision, bench, subject, path, dtype)


def _compare_precision(bench: Bench, subject: str, path: Path, dtype: torch.dtype) -> None:
    model = make_detector(path, *SHALLOW).to(bench.device)
    images, _ = on(bench.device, *scenes(bench.scale.side, 1))
    wanted = dense_maps(model, images)
    with _autocast(bench, dtype):
        found = dense_maps(model, images)
    worst = mean_difference(found, wanted)
    right = worst < (SAME_HALF if dtype == torch.float16 else SAME_BFLOAT)
    bench.record.add("precision", subject, "mean difference", worst, right=right)


# --- speed ---------------------------------------------------------------------------------------


def speed(bench: Bench) -> Work:
    """Pictures a second, memory, and the share of the floor."""
    for file in TIMED:
        for kind, dtype, tf32 in _precisions(bench):
            if bench.cuda or dtype == torch.float32:
                subject = f"{Path(file).parent.name}, {kind}"
                yield subject, partial(_measure_speed, bench, CONFIGS / file, dtype, tf32, subject)


def _measure_speed(bench: Bench, path: Path, dtype: torch.dtype, tf32: bool, subject: str) -> None:
    with _tf32(tf32):
        _measure_inference_and_training(bench, path, dtype, subject)


def _measure_inference_and_training(
    bench: Bench, path: Path, dtype: torch.dtype, subject: str
) -> None:
    scale, add = bench.scale, partial(bench.record.add, "speed", subject)
    model = make_detector(path, *(SHALLOW if scale.shallow else [])).to(bench.device)
    images, targets = on(bench.device, *scenes(scale.timed_side, scale.batch))
    floor = matmul_rate(bench, dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images[:1])
    operations = counter.get_total_flops()
    model.eval()
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode(), _autocast(bench, dtype):
        seconds = bench.seconds(lambda: model(images[:1]))
    add("inference, one picture", 1 / seconds, "pictures/s")
    add("inference, share of the floor", operations / floor / seconds)

    def step() -> None:
        with _autocast(bench, dtype):
            losses = training_losses(model, images, targets)
        sum(losses.values()).backward()
        model.zero_grad()
        model.after_optimizer_step()

    seconds = bench.seconds(step)
    wanted = operations * scale.batch * (1 + BACKWARD_SHARE)
    add(f"training, batch {scale.batch}", scale.batch / seconds, "pictures/s")
    add("training, share of the floor", wanted / floor / seconds)
    if bench.cuda:
        peak = torch.cuda.max_memory_allocated() / 2**30
        add(f"peak memory, batch {scale.batch}", peak, "GiB")


def waits(bench: Bench) -> Work:
    """How often a training step waits for the GPU; on the CPU, how often it would."""
    for file in TIMED:
        yield Path(file).parent.name, partial(_count_waits, bench, CONFIGS / file)


def _count_waits(bench: Bench, path: Path) -> None:
    if not bench.cuda:
        model = make_detector(path, *NARROW)
        found = count_step(model, *scenes(bench.scale.side, 2)).total
        bench.record.add("waits", path.parent.name, "synchronisations of a step", float(found),
                         right=found <= MOST_WAITS)  # fmt: skip
        return
    model = make_detector(path).to(bench.device)
    images, targets = on(bench.device, *scenes(bench.scale.timed_side, 2))
    training_step(model, images, targets)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            training_step(model, images, targets)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = sum("synchroniz" in str(one.message) for one in seen)
    bench.record.add("waits", path.parent.name, "synchronisations of a step", float(found),
                     right=found <= MOST_WAITS)  # fmt: skip


def compiled(bench: Bench) -> Work:
    """The compiled backbone."""
    yield "BlendMask", partial(_measure_compiled, bench, "BlendMask")


def _measure_compiled(bench: Bench, name: str) -> None:
    from comics.inference.acceleration import compile_backbones

    add = partial(bench.record.add, "compile", name)
    path = CONFIGS / TIMED[0]
    model = make_detector(path, *(SHALLOW if bench.scale.shallow else [])).to(bench.device)
    images, _ = on(bench.device, *scenes(bench.scale.timed_side, 1))
    wanted = dense_maps(model, images)
    with torch.inference_mode():
        before = bench.seconds(lambda: model(images))
    start = time.perf_counter()
    compile_backbones(model, bench.device)
    worst = difference(dense_maps(model, images), wanted)
    add("time to compile", time.perf_counter() - start, "s")
    add("largest difference", worst, right=worst < SAME)
    with torch.inference_mode():
        after = bench.seconds(lambda: model(images))
    add("times as quick as before", before / after)


def video(bench: Bench) -> Work:
    """A clip through decoder, model and encoder."""
    yield "shipped model", partial(_measure_video, bench, "shipped model")


def _measure_video(bench: Bench, name: str) -> None:
    import comics
    from comics.runs.inputs import expand_inputs
    from comics.runs.options import RunOptions
    from comics.runs.run import run_inference

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        _write_clip(clip, bench.scale)
        predictor = comics.load(device=str(bench.device), runtime="torch").predictor
        start = time.perf_counter()
        options = RunOptions(output=Path(folder) / "out")
        run_inference(predictor, expand_inputs([str(clip)]), options, lambda line: None)
        seconds = time.perf_counter() - start
        done = (options.output / "results.json").is_file()
    rate = bench.scale.frames / seconds
    bench.record.add("video", name, "frames a second", rate, "frames/s", right=done)


def _write_clip(path: Path, scale: Scale) -> None:
    """A clip of 16:9 that moves a little."""
    import av

    width = scale.timed_side
    height = width * 9 // 16 // 2 * 2
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(scale.frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


CHECKS: dict[str, Callable[[Bench], Work]] = {
    "machine": machine, "nccl": nccl, "speed": speed, "waits": waits, "detectors": detectors,
    "faces": faces, "precision": precision, "compile": compiled, "video": video,
}  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())

#!/usr/bin/env python
"""The shipped model in every runtime, beside each other and beside peers, and where its time goes.

Printed, and written to OUTPUT/runtimes.md and .json:

* a table: seconds of CPU and of the clock for a photo with four faces, as medians over interleaved
  rounds; the ratio to PyTorch within a round; faces found on the samples, and the largest change of
  P(fake) there; seconds until a process of its own has shown its first result (--starts);
* where the time of one photo goes, by stage, from its file to the files that are written, and the
  floor: its arithmetic at this machine's own speed of matrix products, and its bytes.

A runtime that is not installed, and a peer whose weights would be a download, is said to be absent.

Example:
  tools/lab/benchmark_runtimes.py --samples ../shared/samples --output out --rounds 7 --threads 1
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from benchmark_inference import measure_rounds
from face_grid import face_grid, read_portraits
from PIL import Image

HEIGHT, WIDTH, FACES = 960, 1280, 4
EAGER = "PyTorch"
RUNTIMES = {EAGER: "torch", "ONNX Runtime": "onnx", "OpenVINO": "openvino"}
COMPILED = "torch.compile"
PICTURES = (".jpg", ".jpeg", ".png")
MATRIX = 1024  # side of the matrices whose product tells the machine's speed
FOUND = 0.5  # score from which a peer's box counts


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: of the runtime or peer.
        run: looks at one picture [H, W, 3] uint8 RGB; returns the number of faces, and P(fake) of
            each where it says that.
    """

    name: str
    run: Callable[[np.ndarray], tuple[int, list[float]]]
    figures: dict[str, float | int | str | None] = field(default_factory=dict)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=Path, required=True, help="folder of photos")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--weights", metavar="FILE", help="model file (default: the shipped one)")
    parser.add_argument(
        "--exported", nargs="+", default=[], metavar="NAME=RUNTIME=FILE",
        help="further ONNX files of comics export, such as quantised ones",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="torch.compile too: a minute")
    parser.add_argument("--peers", action="store_true", help="torchvision's Mask R-CNN, YuNet")
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="YuNet's model file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=0, help="processes started of each runtime")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes that are started
    portraits = read_portraits(options.samples)
    photo = face_grid(portraits, FACES, HEIGHT, WIDTH)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, absent = make_rows(options)
    measure(rows, photo, options)
    for row in rows:
        if row.name in RUNTIMES:
            runtime = RUNTIMES[row.name]
            seconds = [first_result(runtime, photo, options) for _ in range(options.starts)]
            row.figures["start"] = float(np.median(seconds)) if seconds else None
    stages = {name: profile(name, photo, options) for name in RUNTIMES if name not in absent}
    floor = find_floor(photo, options)
    content = {
        "settings": {"threads": options.threads, "rounds": options.rounds},
        "rows": {row.name: row.figures for row in rows},
        "absent": absent,
        "stages": stages,
        "floor": floor,
    }
    (options.output / "runtimes.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    text = describe(content)
    (options.output / "runtimes.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def make_rows(options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """What is measured, PyTorch first; and what is not, with the reason."""
    from comics.inference.runtimes import PACKAGES

    rows, absent = [], {}
    for name, runtime in RUNTIMES.items():
        missing = [p for p in PACKAGES.get(runtime, ()) if importlib.util.find_spec(p) is None]
        if missing:
            absent[name] = f"not installed: {', '.join(missing)}"
        else:
            rows.append(Row(name, _of_predictor(load(options, runtime))))
    if options.compile:
        rows.append(Row(COMPILED, _of_predictor(load(options, "torch", compiled=True))))
    for text in options.exported:
        name, runtime, path = text.split("=", 2)
        rows.append(Row(name, _of_predictor(load(options, runtime, path))))
    if options.peers:
        add_peers(rows, absent, options)
    return rows, absent


def load(options: argparse.Namespace, runtime: str, path: str | None = None, **more: bool):
    """A predictor."""
    from comics.inference.default_weights import default_weights
    from comics.inference.load import load_predictor

    return load_predictor(path or default_weights(options.weights), "cpu", runtime, **more)


def _of_predictor(predictor) -> Callable[[np.ndarray], tuple[int, list[float]]]:
    def run(picture: np.ndarray) -> tuple[int, list[float]]:
        (faces,) = predictor.predict([picture])
        return len(faces), faces.fake_probability.tolist()

    return run


def add_peers(rows: list[Row], absent: dict[str, str], options: argparse.Namespace) -> None:
    """Other people's detectors, as a user would pick them."""
    import cv2
    import torchvision

    network = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None
    ).eval()

    def mask_rcnn(picture: np.ndarray) -> tuple[int, list[float]]:
        with torch.inference_mode():
            tensor = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
            return int((network([tensor])[0]["scores"] > FOUND).sum()), []

    rows.append(Row("Mask R-CNN of torchvision, random weights", mask_rcnn))
    if options.yunet is None:
        absent["YuNet of OpenCV"] = "its model file is a download, and none was given (--yunet)"
    else:
        detector = cv2.FaceDetectorYN.create(os.fspath(options.yunet), "", (WIDTH, HEIGHT))

        def yunet(picture: np.ndarray) -> tuple[int, list[float]]:
            detector.setInputSize(picture.shape[1::-1])
            _, found = detector.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            return 0 if found is None else len(found), []

        rows.append(Row("YuNet of OpenCV", yunet))
    if importlib.util.find_spec("detectron2") is None:
        absent["Detectron2"] = "not installed"


def measure(rows: list[Row], photo: np.ndarray, options: argparse.Namespace) -> None:
    """Times of the photo, and what is found on the samples."""
    from comics.data.images import read_image

    work = {row.name: (lambda row=row: row.run(photo)) for row in rows}
    times = measure_rounds(work, options.rounds)
    own = np.array(times[EAGER])  # [wall and CPU, rounds]
    samples = [
        read_image(path)
        for path in sorted(options.samples.iterdir())
        if path.suffix.lower() in PICTURES
    ]
    expected: list[tuple[int, list[float]]] = []
    for row in rows:
        wall, cpu = times[row.name]
        found = [row.run(picture) for picture in [photo, *samples]]
        expected = expected or found
        row.figures |= {
            "wall": float(np.median(wall)),
            "cpu": float(np.median(cpu)),
            "wall_ratio": float(np.median(np.array(wall) / own[0])),
            "cpu_ratio": float(np.median(np.array(cpu) / own[1])),
            "faces": sum(count for count, _ in found[1:]),
            "photos": len(samples),
            "change": _largest_change(expected, found),
        }


def _largest_change(
    expected: list[tuple[int, list[float]]], found: list[tuple[int, list[float]]]
) -> float | None:
    """Of P(fake); None of a peer that says none, infinite where other faces are found."""
    if not any(values for _, values in found):
        return None
    if [count for count, _ in expected] != [count for count, _ in found]:
        return float("inf")
    pairs = zip(expected, found, strict=True)
    return max(
        (abs(a - b) for (_, one), (_, two) in pairs for a, b in zip(one, two, strict=True)),
        default=0.0,
    )


def first_result(runtime: str, photo: np.ndarray, options: argparse.Namespace) -> float:
    """Seconds of CPU of ``comics detect photo.jpg``, a process of its own; files are kept."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "photo.jpg"
        Image.fromarray(photo).save(path, quality=92)
        words = ["detect", path, "--output", Path(name) / "out", "--runtime", runtime]
        if options.weights:
            words += ["--weights", options.weights]
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "comics.cli", *map(os.fspath, words)],
            check=True, capture_output=True,
        )  # fmt: skip
        after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


class Stages:
    """Seconds of CPU by stage, each without those of the stages that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within: list[float] = []  # seconds of inner stages, of each that is open

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Its block is a stage."""
        start = time.process_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - start
            self.seconds[name] += spent - self._within.pop()
            if self._within:
                self._within[-1] += spent

    def watch(self, owner: object, attribute: str, name: str) -> Callable[[], None]:
        """Calls of that function are a stage, until the function that is returned is called."""
        original = getattr(owner, attribute)

        def timed(*arguments, **options):
            with self.stage(name):
                return original(*arguments, **options)

        setattr(owner, attribute, timed)
        return lambda: setattr(owner, attribute, original)


@contextmanager
def watched(stages: Stages, predictor) -> Iterator[None]:
    """The stages of ``predict``."""
    import comics.inference.predictor as module
    from comics.modeling.detectors.base import Detector
    from comics.modeling.detectors.candidates import Candidates
    from comics.modeling.face_forensics import FaceForensics

    undo = [
        stages.watch(module, "resize_image", "resize to the network's input"),
        stages.watch(module, "candidates_of", "network: detector"),
        stages.watch(Detector, "checked_select", "selection of faces"),
        stages.watch(module, "form_verdicts", "verdicts"),
        stages.watch(Candidates, "drawn", "masks drawn"),
        stages.watch(FaceForensics, "crops", "crops"),
        stages.watch(FaceForensics, "_crop_logits", "network: faces"),
        stages.watch(module, "with_doubts", "doubts"),
    ]
    try:
        yield
    finally:
        for each in undo:
            each()


def profile(name: str, photo: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of CPU of each stage, from a file to the files that are written; medians."""
    from comics.data.images import read_image
    from comics.inference.draw import draw_faces
    from comics.inference.files import FileOutputs
    from comics.pages.thumbnails import make_thumbnails
    from comics.runs.pictures import write_picture
    from comics.runs.records import ImageRecord

    predictor = load(options, RUNTIMES[name])
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        Image.fromarray(photo).save(path, quality=92)
        outputs = FileOutputs(Path(folder), Path("photo"))
        for _ in range(options.rounds + 1):
            stages = Stages()
            with stages.stage("decode"):
                picture = read_image(path)
            with stages.stage("rest of predict"), watched(stages, predictor):
                (faces,) = predictor.predict([picture])
            with stages.stage("draw"):
                drawn = draw_faces(picture, faces)
            with stages.stage("write picture"):
                write_picture(outputs, "media", "", drawn)
            with stages.stage("thumbnails"):
                thumbnails = make_thumbnails(picture, faces)
            with stages.stage("record (masks as RLE)"):
                ImageRecord.of("photo.jpg", faces, thumbnails=thumbnails).to_line()
            rounds.append(dict(stages.seconds))
    names = rounds[-1]
    return {stage: float(np.median([one.get(stage, 0) for one in rounds[1:]])) for stage in names}


def find_floor(photo: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """Arithmetic and bytes of a photo, and this machine's speed in both, on as many threads."""
    from torch.utils.flop_counter import FlopCounterMode

    predictor = load(options, "torch")
    model = predictor.model
    height, width = predictor.model_size(photo.shape[:2])
    counts = {}
    with torch.inference_mode():
        crops = torch.zeros(FACES, 3, model.face.crop_size, model.face.crop_size)
        for part, call in (
            ("detector", lambda: model.detector.candidates([torch.zeros(3, height, width)])),
            ("faces", lambda: model._crop_logits(crops)),
        ):
            with FlopCounterMode(display=False) as counter:
                call()
            counts[f"gflop_{part}"] = counter.get_total_flops() / 1e9
        square = torch.rand(MATRIX, MATRIX)
        seconds = min(_timed(lambda: square @ square) for _ in range(10))
        large = torch.zeros(2**27, dtype=torch.uint8)
        copying = min(_timed(large.clone) for _ in range(5))
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=92)
    speed = 2 * MATRIX**3 / seconds / 1e9
    return counts | {
        "gflop_per_second": speed,
        "seconds_of_arithmetic": sum(counts.values()) / speed,
        "gigabytes_per_second": 2 * large.numel() / copying / 1e9,
        "megabytes_of_picture": photo.nbytes / 1e6,
        "megabytes_of_file": len(buffer.getvalue()) / 1e6,
        "megabytes_of_weights": sum(p.nbytes for p in model.parameters()) / 1e6,
    }


def _timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def describe(content: dict) -> str:
    """The tables, as Markdown."""
    lines = [
        "| | s of CPU | ratio | s | ratio | faces on samples | change of P(fake) | start, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in content["rows"].items():
        change = "" if row["change"] is None else f"{row['change']:.1e}"
        start = "" if row.get("start") is None else f"{row['start']:.1f}"
        lines.append(
            f"| {name} | {row['cpu']:.3f} | {row['cpu_ratio']:.2f} | {row['wall']:.3f} | "
            f"{row['wall_ratio']:.2f} | {row['faces']} | {change} | {start} |"
        )
    lines += [f"| {name} | {reason} |" + " |" * 6 for name, reason in content["absent"].items()]
    names = list(content["stages"])
    lines += ["", f"| ms of CPU | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    every = dict.fromkeys(stage for one in content["stages"].values() for stage in one)
    for stage in every:
        cells = [f"{1000 * content['stages'][name].get(stage, 0):.1f}" for name in names]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    totals = [f"{1000 * sum(content['stages'][name].values()):.0f}" for name in names]
    lines += [f"| together | {' | '.join(totals)} |", ""]
    lines += [f"- {name}: {value:.3g}" for name, value in content["floor"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

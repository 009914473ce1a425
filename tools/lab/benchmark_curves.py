#!/usr/bin/env python
"""How time and memory grow: with the faces of a photo, its pixels, and the length of a video.

Each figure is of a process of its own, which loads the model, looks once to warm up, and then
--rounds times: the median of the seconds of CPU and of the clock, and the most memory that the
process ever held (Linux's ru_maxrss), with what it held before the first look. Photos are portraits
in a grid; videos are one picture that moves, over and over, analysed from file to results and
annotated video at --max-fps frames a second.

Printed, and written to OUTPUT/curves.md and .json as they come: a stopped run leaves what it has.

Example:
  tools/lab/benchmark_curves.py --samples ../shared/samples --output out --runtime auto
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path, PurePath

FACES = (1, 4, 16, 64)
MEGAPIXELS = (0.3, 1.0, 3.0, 12.0, 24.0, 50.0)
TILING = ("never", "auto")
MINUTES = (0.5, 2.0, 10.0)
WIDTH, HEIGHT = 1280, 960  # pixels, of the photos of 1 to 64 faces
ASPECT = 4 / 3  # width to height, of photos of more or fewer pixels
FACES_OF_SIZES = 4
VIDEO_WIDTH, VIDEO_HEIGHT, RATE = 640, 480, 25
STEP = 2  # pixels that the picture of a video moves from frame to frame


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=Path, required=True, help="folder with portraits")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faces", type=int, nargs="*", default=FACES, metavar="N")
    parser.add_argument("--megapixels", type=float, nargs="*", default=MEGAPIXELS, metavar="M")
    parser.add_argument("--minutes", type=float, nargs="*", default=MINUTES, metavar="M")
    parser.add_argument("--max-fps", type=float, default=1.0, help="analysed of a video (1)")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # one figure, as JSON
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if options.work:
        print(json.dumps(measure(json.loads(options.work), options)))
        return 0
    work = [{"kind": "faces", "faces": faces} for faces in options.faces]
    work += [
        {"kind": "pixels", "megapixels": size, "tiling": tiling}
        for size in options.megapixels
        for tiling in TILING
    ]
    work += [{"kind": "video", "minutes": minutes} for minutes in options.minutes]
    options.output.mkdir(parents=True, exist_ok=True)
    figures: list[dict] = []
    for one in work:
        figures.append(one | _in_a_process(one, options))
        text = describe(figures)
        (options.output / "curves.json").write_text(json.dumps(figures, indent=1), "utf-8")
        (options.output / "curves.md").write_text(text, "utf-8")
    print(text)
    return 0


def _in_a_process(one: dict, options: argparse.Namespace) -> dict:
    words = [
        "--samples", options.samples, "--output", options.output, "--runtime", options.runtime,
        "--threads", options.threads, "--rounds", options.rounds, "--max-fps", options.max_fps,
        "--work", json.dumps(one),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(one: dict, options: argparse.Namespace) -> dict:
    """The figures of one photo or video, in this process."""
    import torch
    from benchmark_evaluation import peak_megabytes
    from face_grid import face_grid, read_portraits

    from comics.inference.default_weights import default_weights
    from comics.inference.load import load_predictor

    torch.set_num_threads(options.threads)
    portraits = read_portraits(options.samples)
    predictor = load_predictor(
        default_weights(), "cpu", options.runtime, tiling=one.get("tiling", "never")
    )
    if one["kind"] == "video":
        return _measure_video(one["minutes"], predictor, portraits, options)
    width, height, faces = WIDTH, HEIGHT, one.get("faces", FACES_OF_SIZES)
    if one["kind"] == "pixels":
        height = round(math.sqrt(one["megapixels"] * 1e6 / ASPECT))
        width = round(height * ASPECT)
    photo = face_grid(portraits, faces, height, width)
    before, cpu, wall, found = peak_megabytes(), [], [], 0
    for _ in range(options.rounds + 1):
        started, cpu_started = time.perf_counter(), time.process_time()
        (result,) = predictor.predict([photo])
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
        found = len(result)
    return {
        "size": f"{width} x {height}",
        "found": found,
        "cpu": sorted(cpu[1:])[options.rounds // 2],
        "wall": sorted(wall[1:])[options.rounds // 2],
        "before": before,
        "peak": peak_megabytes(),
    }


def _measure_video(minutes: float, predictor, portraits, options: argparse.Namespace) -> dict:
    """From the file to its tracks and its annotated copy, once."""
    from benchmark_evaluation import peak_megabytes
    from face_grid import face_grid

    from comics.runs.inputs import InputFile
    from comics.runs.video import VideoOptions, VideoOutputs, run_video

    picture = face_grid(portraits, FACES_OF_SIZES, VIDEO_HEIGHT, VIDEO_WIDTH)
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mp4"
        _in_another_process(picture, clip, round(60 * minutes * RATE))
        predictor.predict([picture])
        before = peak_megabytes()
        started, cpu_started = time.perf_counter(), time.process_time()
        status = run_video(
            InputFile(clip, PurePath(clip.name)),
            predictor,
            VideoOptions(max_fps=options.max_fps, rule=predictor.video_rule),
            lambda *_: None,
            VideoOutputs(Path(name), "annotated.mp4", "tracks.json"),
        )
        if status.status != "ok":
            raise SystemExit(f"the video was not read whole: {status.reason}")
        return {
            "size": f"{VIDEO_WIDTH} x {VIDEO_HEIGHT}",
            "found": status.faces,
            "cpu": time.process_time() - cpu_started,
            "wall": time.perf_counter() - started,
            "before": before,
            "peak": peak_megabytes(),
        }


def _in_another_process(picture, path: Path, frames: int) -> None:
    """Write the video there, so that its encoder's memory is not ours."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(
        target=write_video, args=(picture, path, frames)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the video could not be written")


def write_video(picture, path: Path, frames: int) -> None:
    """An H.264 video of a picture [H, W, 3] that moves to and fro."""
    import av
    import numpy as np

    height, width = picture.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            shift = STEP * abs(number % (2 * RATE) - RATE)
            image = np.ascontiguousarray(np.roll(picture, shift, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def describe(figures: list[dict]) -> str:
    """A table, as Markdown."""
    lines = [
        "| | pixels | faces found | s of CPU | s | memory at most, MB | before, MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in figures:
        name = {
            "faces": lambda one: f"{one['faces']} faces",
            "pixels": lambda one: f"{one['megapixels']:g} megapixels, tiling {one['tiling']}",
            "video": lambda one: f"video of {one['minutes']:g} minutes",
        }[one["kind"]](one)
        lines.append(
            f"| {name} | {one['size']} | {one['found']} | {one['cpu']:.2f} | {one['wall']:.2f} | "
            f"{one['peak']:.0f} | {one['before']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

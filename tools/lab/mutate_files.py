#!/usr/bin/env python
"""Mutate files of every kind that is read, read them, and say how the readers fared.

Small sound files are made on the spot: pictures in many formats, animations, videos, annotation
files, manifests, model files, checkpoints with pickles, results. Of each, copies with bytes
changed, removed, inserted, repeated or cut off are read in processes of their own, by --seed.

It is a fault if a process ends in another way than it should, takes longer than --seconds for one
file, raises anything but the reader's own error, returns something that is not valid, or runs
anything: among the checkpoints are pickles that would write a file if they were unpickled.

Exit code: 0 no fault; 1 faults, each named and its file kept in the output folder.

Example:
  tools/lab/mutate_files.py --output mutated --count 10000
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

BATCH = 500  # files a process reads before the next is begun
START_S = 600  # for a process's imports, on a machine that is busy
MAX_PIXELS = 200_000
MEMORY = 8 << 30  # bytes of address space, so that a reader that asks for more fails by itself
STILLS = {
    "jpg": ("JPEG", {}), "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}), "bmp": ("BMP", {}), "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}), "webp": ("WEBP", {}), "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}), "tga": ("TGA", {}), "still.gif": ("GIF", {}), "still.avif": ("AVIF", {}),
}  # fmt: skip
MOVING = {
    "gif": "GIF", "moving.webp": "WEBP", "moving.png": "PNG", "moving.avif": "AVIF",
    "pages.tif": "TIFF", "mpo": "MPO",
}  # fmt: skip
VIDEOS = {
    "mp4": ("mp4", "libx264"), "mkv": ("matroska", "libx264"), "avi": ("avi", "mpeg4"),
    "ts": ("mpegts", "libx264"), "h264": ("h264", "libx264"), "asf": ("asf", "mpeg4"),
    "webm": ("webm", "libvpx"), "flv": ("flv", "flv1"), "mpg": ("mpeg", "mpeg1video"),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit code."""
    options = _parser().parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.worker:
        return _work(options)
    samples = options.output / "samples"
    _make_samples(samples, options.output / "canary")
    counts, faults, begun = Counter(), [], time.monotonic()
    first = 0
    while first < options.count and time.monotonic() - begun < options.minutes * 60:
        last = min(options.count, first + BATCH)
        first, outcomes, found = _run_worker(options, first, last)
        counts.update(outcomes)
        faults += found
    if (options.output / "canary").exists():
        faults.append("code in a file was run: it wrote the canary")
    kinds = {kind for kind, _ in counts}
    for kind in sorted(kinds):
        outcomes = sorted(what for of, what in counts if of == kind)
        text = ", ".join(f"{counts[kind, what]} {what}" for what in outcomes)
        print(f"{kind:16} {text}")
    for fault in faults:
        print(f"FAULT {fault}")
    read = sum(counts.values())
    print(f"{read} files in {time.monotonic() - begun:.0f} s, {len(faults)} faults")
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for files and faults")
    parser.add_argument("--count", type=int, default=10_000, help="files (10000)")
    parser.add_argument("--minutes", type=float, default=60, help="end after so many (60)")
    parser.add_argument("--seconds", type=float, default=60, help="at most, for one file (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (0)")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser


def _run_worker(options, first: int, last: int) -> tuple[int, Counter, list[str]]:
    """Read files ``first`` to ``last`` in a process; where to go on, outcomes and faults."""
    command = [sys.executable, os.path.abspath(__file__), "--output", str(options.output)]
    command += ["--seed", str(options.seed), "--worker", str(first), str(last)]
    log = options.output / "worker.log"
    with open(log, "wb") as out, open(options.output / "worker.err", "wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        timed_out = _watch(process, log, options.seconds)
    counts, faults, at, name = Counter(), [], first, "the start"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        what, _, rest = line.partition(" ")
        if what == "begin":
            number, _, name = rest.partition(" ")
            at = int(number)
        else:
            counts[name.partition("/")[0], what] += 1
            at += 1
            if what == "fault":
                faults.append(f"{at - 1} {name}: {rest}")
    if at < last:
        why = f"longer than {options.seconds:g} s" if timed_out else f"exit {process.returncode}"
        faults.append(f"{at} {name}: the process ended ({why})")
        at += 1
    return at, counts, faults


def _watch(process: subprocess.Popen, log: Path, seconds: float) -> bool:
    """Wait for the end; whether it was ended for a file that took too long."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = log.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > (seconds if size else START_S):
            process.kill()
            process.wait()
            return True
    return False


def _work(options) -> int:
    """The process that reads: a line before and after each file."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    readers = _readers()
    samples = sorted((options.output / "samples").iterdir())
    for number in range(*options.worker):
        rng = np.random.default_rng((options.seed, number))
        sample = samples[number % len(samples)]
        content = mutated(sample.read_bytes(), rng)
        kind = sample.name.partition("-")[0]
        path = options.output / f"now{''.join(sample.suffixes[-1:])}"
        path.write_bytes(content)
        print(f"begin {number} {kind}/{sample.name}", flush=True)
        try:
            outcome = readers[kind](path)
        except Exception as error:  # of any kind: that is what is looked for
            outcome = f"fault {type(error).__name__}: {error}".replace("\n", " ")[:300]
            (options.output / f"fault-{number}-{sample.name}").write_bytes(content)
        print(outcome, flush=True)
    return 0


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to six changes of a file."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 7))):
        place = int(rng.integers(len(data) + 1))
        # Headers are short, and what is in them matters most
        if rng.random() < 0.4:
            place = int(rng.integers(min(len(data), 200) + 1))
        length = int(2 ** rng.uniform(0, 7))
        what = int(rng.integers(7))
        if what == 0:
            data[place : place + 1] = rng.bytes(1)
        elif what == 1:
            data[place : place + length] = rng.bytes(length)
        elif what == 2:
            del data[place : place + length]
        elif what == 3:
            data[place:place] = rng.bytes(length)
        elif what == 4:
            data[place:place] = data[place : place + length]
        elif what == 5:
            value = [0, 0xFF, 0x7F, 0x80][int(rng.integers(4))]
            data[place : place + length % 9] = bytes([value] * (length % 9))
        elif rng.random() < 0.4:
            del data[place:]
    return bytes(data)


def _readers() -> dict[str, Callable[[Path], str]]:
    """Kind -> what reads a file, and returns "read" or "refused"."""
    from comics.data.coco import load_coco
    from comics.data.content import content_kind
    from comics.data.custody.facts import read_facts
    from comics.data.faces.manifest_files import read_manifest
    from comics.data.images import ImageError, read_image, read_image_size
    from comics.data.picture_parts import parts_left_out
    from comics.data.records import DatasetError
    from comics.data.video_frames import ClipError, read_clip
    from comics.engine.checkpoint import CheckpointError, load_checkpoint
    from comics.integrations.safe_pickle import read_pickle
    from comics.modeling.weights import read_weights
    from comics.runs.results_reader import ResultsError, read_members
    from comics.structures import Faces
    from comics.video.frames import VideoError
    from comics.video.stream import process_video

    def picture(path: Path) -> None:
        parts_left_out(path)
        if content_kind(path) != "picture":
            video(path)
            return
        size = read_image_size(path, MAX_PIXELS)
        image = read_image(path, MAX_PIXELS)
        valid = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert valid, (image.dtype, image.shape)
        assert image.shape[:2] == size, (image.shape, size)
        assert read_facts(path, image) is not None

    def video(path: Path) -> None:
        times = []

        def seen(frame, faces) -> None:
            assert frame.image.dtype == np.uint8 and frame.image.shape[:2] == faces.image_size
            times.append(frame.time_s)

        report = process_video(
            path,
            lambda images: [Faces.empty(image.shape[:2], with_masks=False) for image in images],
            seen,
            max_pixels=MAX_PIXELS,
        )
        assert report.analysed_frames == len(times) > 0
        assert times == sorted(times), times

    def clip(path: Path) -> None:
        frames = read_clip(path, lambda count: range(min(count, 3)), MAX_PIXELS)
        assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames.values())

    def reader(read: Callable[[Path], object], *refusals: type[Exception]):
        def outcome(path: Path) -> str:
            try:
                read(path)
            except refusals as error:
                if not str(error):
                    raise AssertionError("an error without words") from error
                return "refused"
            return "read"

        return outcome

    return {
        "picture": reader(picture, ImageError, VideoError),
        "video": reader(video, VideoError),
        "clip": reader(clip, ClipError),
        "annotations": reader(load_coco, DatasetError),
        "manifest": reader(read_manifest, DatasetError),
        "weights": reader(read_weights, ValueError),
        "checkpoint": reader(load_checkpoint, CheckpointError),
        "pickle": reader(read_pickle, ValueError),
        "results": reader(lambda path: list(read_members(path)), ResultsError),
    }


class _Canary:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch {self._path.resolve()}",)


def _make_samples(folder: Path, canary: Path) -> None:
    """Write the sound files: ``<kind>-<name>``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _samples(canary):
        (folder / name).write_bytes(content)


def _samples(canary: Path) -> Iterator[tuple[str, bytes]]:
    from PIL import Image

    Image.init()  # or what Pillow can write is not known yet
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(4)]
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, (form, extra) in STILLS.items():
        if form in Image.SAVE:
            extra = extra | ({"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {})
            buffer = io.BytesIO()
            frames[0].save(buffer, form, **extra)
            yield f"picture-{name}", buffer.getvalue()
    for name, form in MOVING.items():
        if form in Image.SAVE:
            buffer = io.BytesIO()
            frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=40)
            yield f"picture-{name}", buffer.getvalue()
    for name, (container, codec) in VIDEOS.items():
        content = _video([np.asarray(frame) for frame in frames], container, codec)
        yield f"video-{name}", content
        if name in ("mp4", "avi"):
            yield f"clip-{name}", content
    yield from _texts()
    yield from _weights(canary)


def _video(frames: list[np.ndarray], container: str, codec: str) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames * 2:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def _texts() -> Iterator[tuple[str, bytes]]:
    polygon = [[2, 3, 12, 3, 12, 11, 2, 11]]
    face = {"image_id": 0, "bbox": [2, 3, 10, 8], "segmentation": polygon, "iscrowd": 0, "area": 80}
    categories = [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]
    annotations = {
        "images": [{"id": 0, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": n, "category_id": n, **face} for n in (0, 1)],
        "categories": categories,
    }
    yield "annotations-coco.json", json.dumps(annotations).encode()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "label", "video", "frame", "method"])
    writer.writerows([[f"{n}.png", ("real", "fake")[n % 2], f"v{n}", n, ""] for n in range(6)])
    yield "manifest-set.csv", text.getvalue().encode()
    results = {
        "schema_version": "1.1",
        "categories": categories,
        "results": [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}] * 3,
        "images": [{"id": 1, "file_name": "a", "width": 4, "height": 4}],
        "files": [{"file_name": "a", "reason": None, "output": "media/a.jpg"}],
    }
    yield "results-run.json", json.dumps(results).encode()


def _weights(canary: Path) -> Iterator[tuple[str, bytes]]:
    import torch
    from safetensors.torch import save

    from comics.config import get_cfg
    from comics.engine.checkpoint import save_checkpoint

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3)}
    yield "weights-a.safetensors", save(state, {"config": get_cfg().dump()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        save_checkpoint(path, {"model": state, "iteration": 3})
        yield "checkpoint-a.pt", path.read_bytes()
        torch.save({"model": state, "hook": _Canary(canary)}, path)
        yield "checkpoint-evil.pt", path.read_bytes()
    arrays = {"model": {"a": np.arange(6.0), "b": np.zeros((2, 2), np.float32)}}
    yield "pickle-a.pkl", pickle.dumps(arrays, protocol=2)
    yield "pickle-evil.pkl", pickle.dumps(arrays | {"hook": _Canary(canary)}, protocol=2)


if __name__ == "__main__":
    sys.exit(main())

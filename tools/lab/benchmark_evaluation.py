#!/usr/bin/env python
"""The ``evaluation`` part of ``tools/lab/benchmark.py``: AP and oLRP at OpenForensics' scale.

A file of its own because a measurement must not carry torch, which evaluating files does not need.
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
    command = [sys.executable, __file__, worker, *words]
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


def run_worker(worker: str, words: list[str]) -> None:
    """One measurement; the last line of output is JSON."""
    runners = {"ours": run_ours, "pycocotools": run_pycocotools}
    figures = runners[worker](*words)
    print(json.dumps({"figures": figures, "megabytes": peak_megabytes()}))


def peak_megabytes() -> float:
    """The most memory that this process held at once.

    On Linux not by ``getrusage``: that also counts the parent that it was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run_worker(sys.argv[1], sys.argv[2:])

#!/usr/bin/env python
"""The ``evaluation`` part of ``tools/lab/benchmark.py``: AP and oLRP at OpenForensics' scale.

A file of its own because a measurement must not carry torch, which evaluating files does not need.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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

    return _average_precisions(_opened(COCO, COCOeval, truth, results, mode), mode)


def run_faster(truth: str, results: str, mode: str) -> dict[str, float]:
    """AP alone, of one mode, by faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _average_precisions(_opened(COCO, COCOeval_faster, truth, results, mode), mode)


def run_lrp(truth: str, results: str, mode: str) -> dict[str, float]:
    """oLRP of all faces, of one mode, as the official code computes it.

    That code is pycocotools' matching at an IoU of 0.5, and one pass over each class's detections;
    the pass is written here after its formula (docs/methods.md#metrics-lrp).
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    evaluation = _opened(COCO, COCOeval, truth, results, mode)
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    optima = []
    for position, category in enumerate(evaluation.params.catIds):
        first = position * areas * images  # of the range "all"
        found = [one for one in evaluation.evalImgs[first : first + images] if one is not None]
        optima.append(_optimal_lrp(evaluation, found, category))
    return {f"{mode} oLRP": float(np.mean(optima))}


def _opened(coco: Any, evaluator: Any, truth: str, results: str, mode: str) -> Any:
    """An evaluation by classes of pycocotools, or by those of a library with its interface."""
    ground_truth = coco(truth)
    entries = json.loads(Path(results).read_text())
    if mode == "segm":
        for entry in entries:
            del entry["bbox"]
    return evaluator(ground_truth, ground_truth.loadRes(entries), mode)


def _average_precisions(evaluation: Any, mode: str) -> dict[str, float]:
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", None, None, "AP_S", "AP_M", "AP_L")
    return {f"{mode} {name}": v for name, v in zip(names, evaluation.stats, strict=False) if name}


def _optimal_lrp(evaluation: Any, found: list[dict], category: int) -> float:
    """Of one class, from what pycocotools matched in each image."""
    scores, overlaps = [], []  # 0: a false positive
    faces = sum(int((~np.asarray(one["gtIgnore"], dtype=bool)).sum()) for one in found)
    for one in found:
        key = (one["image_id"], category)
        columns = {face["id"]: n for n, face in enumerate(evaluation._gts[key])}
        table = evaluation.ious[key]  # an empty list where there is nothing to compare
        for row, face in enumerate(one["dtMatches"][0].astype(int).tolist()):
            overlaps.append(table[row][columns[face]] if face else 0.0)
        scores += one["dtScores"]
    order = np.argsort(-np.array(scores), kind="mergesort")
    overlap = np.array(overlaps)[order]
    right = np.cumsum(overlap > 0)
    distance = right - np.cumsum(overlap)
    wrong, missed = np.arange(1, len(overlap) + 1) - right, faces - right
    return float(((distance / 0.5 + wrong + missed) / (right + wrong + missed)).min())


def measure(worker: str, *words: str) -> dict:
    """Run one worker in a fresh process: its figures, ``seconds``, ``cpu`` and ``megabytes``."""
    command = [sys.executable, __file__, worker, *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def benchmark_evaluation(arguments: argparse.Namespace) -> None:
    """Compare our evaluation with others' on a made-up set, in the same run."""
    with tempfile.TemporaryDirectory() as folder:
        paths = make_evaluation_set(Path(folder), arguments.seed, arguments.scale)
        words = [str(path) for path in paths]
        ours = measure("ours", *words)
        _show("ours, AP + oLRP, box + mask", ours)
        if arguments.peers:
            _compare(ours, words)
    print(json.dumps(ours["figures"]))


def _compare(ours: dict, words: list[str]) -> None:
    """Print every peer's cost, how often ours goes into it, and the largest difference."""
    peers = {"pycocotools": "AP", "lrp": "oLRP (official algorithm)"}
    if importlib.util.find_spec("faster_coco_eval"):
        peers["faster"] = "AP (faster-coco-eval)"
    else:
        print("faster-coco-eval is not installed")
    figures: dict[str, float] = {}
    for peer, what in peers.items():
        both = [measure(peer, *words, mode) for mode in ("bbox", "segm")]
        for mode, found in zip(("box", "mask"), both, strict=True):
            _show(f"{peer}, {what}, {mode}", found)
        wall, cpu = (sum(found[kind] for found in both) / ours[kind] for kind in ("seconds", "cpu"))
        print(f"ratio ({peer} box + mask / ours): {wall:.2f}, of CPU time {cpu:.2f}", flush=True)
        figures |= {k: v for found in both for k, v in found["figures"].items()}
    for kind in ("AP", "oLRP"):
        gaps = [
            abs(ours["figures"][name] - value)
            for name, value in figures.items()
            if name.split()[1].startswith(kind)
        ]
        print(f"largest difference of an {kind}: {max(gaps):.1e}")


def _show(name: str, found: dict) -> None:
    print(
        f"{name}: {found['seconds']:.2f} s, {found['cpu']:.2f} s of CPU, "
        f"{found['megabytes']:.0f} MB",
        flush=True,
    )


def run_worker(worker: str, words: list[str]) -> None:
    """One measurement; the last line of output is JSON."""
    runners = {
        "ours": run_ours,
        "pycocotools": run_pycocotools,
        "faster": run_faster,
        "lrp": run_lrp,
    }
    figures = runners[worker](*words)
    cost = {"megabytes": peak_megabytes(), "cpu": time.process_time()}
    print(json.dumps({"figures": figures, **cost}))


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

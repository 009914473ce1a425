#!/usr/bin/env python
"""Many small pictures through `comics scale` and through one process: are the results equal?

Makes --pictures JPEG files of noise and patches, gives them to one process as `comics detect` goes
through files, then to `comics scale` with each number of --workers, and compares every row with
what the one process says of the file and its faces. Printed, and written to
OUTPUT/scale_run.json: whether they are equal, files a second by number of workers, and the share
of their time in which the models were at work. Without --weights, a tiny model of random weights,
which finds faces in noise: what is measured is then the way of files and rows, not the model.

Workers of Ray run on a cluster that is started here, or on --address. OUTPUT is emptied first.

Exit code: 0 equal; 1 not; 2 unusable arguments.

Examples:
  tools/lab/scale_run.py --output output/scale --pictures 20000 --engine ray --workers 1 2
  tools/lab/scale_run.py --output output/scale --pictures 300 --engine local --workers 1 2 4 \\
      --weights comics/weights/default.safetensors --size 640 480
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PER_FOLDER = 1000
TINY = [
    "MODEL.META_ARCHITECTURE", "FCOS", "MODEL.MASK_ON", "False", "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.FCOS.PRIOR_PROB", "0.3",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "10", "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "96", "TEST.SCORE_THRESH", "0.05",
]  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--pictures", type=int, default=1000, metavar="N")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), metavar=("W", "H"))
    parser.add_argument("--weights", metavar="FILE", help="model file (default: a tiny one)")
    parser.add_argument("--engine", choices=("local", "ray"), default="ray")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="K")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each model (1)")
    parser.add_argument("--shard-files", type=int, default=256, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def make_pictures(folder: Path, count: int, size: Sequence[int], seed: int) -> None:
    """Pictures of noise with a patch each, a thousand a folder."""
    generator = np.random.default_rng(seed)
    width, height = size
    for number in range(count):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        left, top = generator.integers(0, (width // 2, height // 2))
        image[top : top + height // 3, left : left + width // 3] = generator.integers(0, 256, 3)
        path = folder / f"{number // PER_FOLDER:03}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=85)


def make_model(path: Path, seed: int) -> None:
    """A model file of random weights that finds faces in noise."""
    import torch

    from comics.config import load_config
    from comics.modeling.build import build_model
    from comics.modeling.weights import save_weights

    torch.manual_seed(seed)
    cfg = load_config(overrides=TINY)
    save_weights(path, build_model(cfg).state_dict(), cfg, {"iteration": "0"})


def one_process(folder: Path, output: Path, weights: str, threads: int) -> tuple[Path, float]:
    """The results of a run in this process, and its seconds, the model's start among them."""
    import torch

    from comics.inference.load import load_predictor
    from comics.runs.inputs import expand_inputs
    from comics.runs.options import RunOptions
    from comics.runs.run import run_inference

    torch.set_num_threads(threads)
    start = time.monotonic()
    predictor = load_predictor(weights, "cpu")
    options = RunOptions(output, write_media=False)
    run_inference(predictor, expand_inputs([folder]), options, lambda line: None)
    return output / "results.json", time.monotonic() - start


def scaled(
    options: argparse.Namespace, folder: Path, output: Path, weights: str, workers: int
) -> dict[str, Any]:
    """Figures of a job with so many workers."""
    from comics.scale.job import JobRequest, run_job

    request = JobRequest(
        str(output), [str(folder)], scanner={"weights": weights, "device": "cpu"},
        shard_files=options.shard_files, threads=options.threads,
    )  # fmt: skip
    engine = _engine(options, workers)
    start = time.monotonic()
    try:
        outcome = run_job(request, engine, lambda line: print(line, file=sys.stderr))
    finally:
        engine.close()
    return {
        "workers": engine.workers,
        "files": outcome.summary["files"],
        "undone": outcome.undone,
        "seconds": round(time.monotonic() - start, 2),
        "working_seconds": round(outcome.seconds, 2),
        "files_per_second": round(outcome.files / outcome.seconds, 2),
        "model_share": round(outcome.model_share, 3),
    }


def _engine(options: argparse.Namespace, workers: int) -> Any:
    if options.engine == "local":
        from comics.scale.engines.local import LocalEngine

        return LocalEngine(workers)
    from comics.scale.engines.on_ray import RayEngine

    return RayEngine(options.address, workers, cpus=1)


def rows_of_run(path: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each file's entry and faces, of results.json."""
    document = json.loads(path.read_text(encoding="utf-8"))
    faces: dict[str, list[dict[str, Any]]] = {}
    for face in document["results"]:
        del face["image_id"]
        faces.setdefault(face["file_name"], []).append(face)
    for entry in document["files"]:
        yield entry, faces.get(entry["file_name"], [])


def rows_of_job(output: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The same, of a job's Parquet."""
    from comics.scale.reader import ScaleOutput

    for entry, images in ScaleOutput(str(output)).files():
        yield entry, [face for _, faces in images for face in faces]


def differences(one: Path, job: Path) -> tuple[int, int, int]:
    """Files, faces, and files of which the two say different things."""
    files = faces = different = 0
    for expected, found in zip(rows_of_run(one), rows_of_job(job), strict=True):
        files += 1
        faces += len(found[1])
        different += expected != found
    return files, faces, different


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if options.pictures < 1 or min(options.workers) < 1 or min(options.size) < 24:
        print("scale_run: pictures and workers from 1 on, sizes from 24 pixels on", file=sys.stderr)
        return 2
    shutil.rmtree(options.output, ignore_errors=True)
    folder = (options.output / "pictures").absolute()
    make_pictures(folder, options.pictures, options.size, options.seed)
    weights = options.weights and os.path.abspath(options.weights)
    if weights is None:
        weights = str(options.output.absolute() / "tiny.safetensors")
        make_model(Path(weights), options.seed)
    results, seconds = one_process(folder, options.output / "one", weights, options.threads)
    told: dict[str, Any] = {
        "pictures": options.pictures,
        "size": list(options.size),
        "weights": os.path.basename(weights),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "shard_files": options.shard_files,
        "engine": options.engine,
        "one_process": {"seconds": round(seconds, 2),
                        "files_per_second": round(options.pictures / seconds, 2)},
        "jobs": [],
    }  # fmt: skip
    equal = True
    for workers in options.workers:
        output = options.output / f"workers-{workers}"
        figures = scaled(options, folder, output, weights, workers)
        files, faces, different = differences(results, output)
        figures |= {"faces": faces, "different_files": different}
        equal &= not different and files == options.pictures and not figures["undone"]
        told["jobs"].append(figures)
        told["equal"] = equal
        text = json.dumps(told, indent=1)
        (options.output / "scale_run.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())

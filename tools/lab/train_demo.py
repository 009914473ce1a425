#!/usr/bin/env python
"""The whole path on one machine: make a data set, train, evaluate, infer, and write one page.

It takes about 13 minutes on two cores; tools/lab/demo.py shows a model that is trained already.
Each stage is a command that you can run yourself; the demo prints it before it runs it. A stage
whose result is there already is not done again: the same command continues an interrupted demo.
The page is OUTPUT/index.html.

Examples:
  tools/lab/train_demo.py                            scenes that it draws, in output/train_demo
  tools/lab/train_demo.py --output output/photos --photos FOLDER
                                                 forged from real photos: a folder with
                                                 annotations.json (COCO, real faces)
  ... --pictures FOLDER                          also look at these, never trained on
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from demo import (
    CLIP_PICTURES,
    SHOWN_PICTURES,
    TOOLS,
    command,
    infer,
    make_clip,
    pictures_in,
    true_labels,
)

CONFIG = TOOLS.parent / "configs" / "Quickstart" / "comics_r18.yaml"
TEST_SPLITS = ("test_dev", "test_challenge")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/train_demo"), metavar="FOLDER")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="real photos to forge")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="more pictures to look at")
    parser.add_argument("--train-images", type=int, default=1200, metavar="N")
    parser.add_argument("--test-images", type=int, default=150, metavar="N", help="per test split")
    parser.add_argument("--iterations", type=int, metavar="N", help="default: the configuration's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = build_parser().parse_args(arguments)
    started = time.monotonic()
    data, run = options.output / "data", options.output / "train"
    make_data(options, data)
    weights = train(options, data, run)
    evaluate(options, data, run, weights)
    pictures = choose_pictures(data, options.pictures, options.seed)
    panned = choose_pictures(data, None, options.seed + 1)[:CLIP_PICTURES]
    clip = make_clip(options.output / "clip.mp4", panned)
    infer(options.output, weights, [*pictures, clip])
    page = write_demo_page(options, data, run, weights, pictures)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {page}")
    return 0


def make_data(options: argparse.Namespace, data: Path) -> None:
    """Four splits below ``data``; resumable, so it is always called."""
    source = options.photos or "synthetic"
    command(
        "make_dataset.py", "--output", data, "--source", source, "--seed", options.seed,
        "--train", options.train_images, "--val", options.test_images // 2,
        "--test-dev", options.test_images, "--test-challenge", options.test_images,
        "--size", 320,
    )  # fmt: skip


def train(options: argparse.Namespace, data: Path, run: Path) -> Path:
    """The trained weights, chosen on the validation split."""
    weights = run / "model_best.safetensors"
    if (run / "model_final.safetensors").is_file():
        print(f"\n{weights} is there already")
        return weights
    overrides = ["OUTPUT_DIR", run, "SEED", options.seed, *options.overrides]
    if options.iterations:
        overrides += ["SOLVER.MAX_ITER", options.iterations]
    command(
        "train_net.py", "--resume", "--config-file", CONFIG, *overrides,
        "DATASETS.TRAIN", [str(data / "train.json")], "DATASETS.VAL", [str(data / "val.json")],
    )  # fmt: skip
    return weights


def evaluate(options: argparse.Namespace, data: Path, run: Path, weights: Path) -> None:
    """COCO results and figures of both test splits, below ``run/inference``."""
    tests = [str(data / f"{split}.json") for split in TEST_SPLITS]
    command(
        "train_net.py", "--eval-only", "--weights", weights, "--config-file", CONFIG,
        "OUTPUT_DIR", run, *options.overrides, "DATASETS.TEST", tests,
    )  # fmt: skip


def choose_pictures(data: Path, more: Path | None, seed: int) -> list[Path]:
    """Some held-out pictures of test-dev, then the user's own."""
    images = json.loads((data / "test_dev.json").read_text(encoding="utf-8"))["images"]
    drawn = random.Random(seed).sample(images, min(SHOWN_PICTURES, len(images)))
    return [data / image["file_name"] for image in drawn] + (pictures_in(more) if more else [])


def write_demo_page(
    options: argparse.Namespace, data: Path, run: Path, weights: Path, pictures: list[Path]
) -> Path:
    """Pictures with verdicts, figures of both splits, and the training curves."""
    from comics.data.images import read_image
    from comics.inference.predictor import Predictor
    from comics.pages.curves import read_curves
    from comics.pages.page import GalleryPicture, write_page

    predictor = Predictor.from_file(weights)
    content = json.loads((data / "test_dev.json").read_text(encoding="utf-8"))
    truth = true_labels(data, content)
    cards = []
    for path in pictures:
        image = read_image(path)
        faces = predictor.predict([image])[0]
        cards.append(GalleryPicture(path.name, image, faces, note=truth.get(path)))
    kind = "photos with faces forged by the project" if options.photos else "synthetic scenes"
    page = options.output / "index.html"
    write_page(
        page,
        "comics: a model trained in minutes",
        cards,
        tables={f"Held-out {kind}, x100": figures(data, run)},
        curves=read_curves(run / "metrics.jsonl"),
        introduction=(
            f"A small COMICS-BlendMask trained on {options.train_images} {kind} "
            f"(seed {options.seed}). None of the pictures below was trained on."
        ),
        provenance=predictor.provenance,
        decimals=1,
    )
    return page


def figures(data: Path, run: Path) -> list[dict[str, object]]:
    """Rows per split, x100: COCO's figures per class, then those of the merged verdicts.

    A detector may report one face as real and as forged; COCO counts both. What a user sees is one
    verdict per face, so "AP50 any class" is measured on verdicts.
    """
    from comics.evaluation import evaluate as measure

    rows = []
    for position, split in enumerate(TEST_SPLITS):
        truth = data / f"{split}.json"
        results = json.loads((run / "inference" / f"{position}_{split}.json").read_text())
        flat = measure(truth, results).flat()
        merged = measure(truth, verdict_results(results), ("bbox",)).flat()
        for mode, name in (("bbox", "box"), ("segm", "mask")):
            row = {"split": split, "what": name}
            row |= {
                k: flat[f"{mode}/{k}"] for k in ("AP", "AP50", "oLRP", "AP50/Real", "AP50/Fake")
            }
            row["AP50 any class"] = merged["bbox/AP50_agnostic"] if mode == "bbox" else None
            rows.append(
                {k: round(100 * v, 1) if isinstance(v, float) else v for k, v in row.items()}
            )
    return rows


def verdict_results(results: list[dict]) -> list[dict]:
    """COCO results of a detector, merged to one box per face (``form_verdicts``)."""
    import torch

    from comics.inference.verdict import VerdictRule, form_verdicts
    from comics.ops.boxes import xywh_to_xyxy, xyxy_to_xywh
    from comics.structures import Faces

    by_image: dict[int, list[dict]] = {}
    for entry in results:
        by_image.setdefault(entry["image_id"], []).append(entry)
    merged = []
    for image_id, entries in by_image.items():
        faces = Faces(
            boxes=xywh_to_xyxy(torch.tensor([entry["bbox"] for entry in entries])),
            image_size=(0, 0),
            labels=torch.tensor([entry["category_id"] for entry in entries]),
            scores=torch.tensor([entry["score"] for entry in entries]),
        )
        faces = form_verdicts(faces, VerdictRule(score_threshold=0.0))
        columns = (xyxy_to_xywh(faces.boxes).tolist(), faces.labels.tolist(), faces.scores.tolist())
        for box, label, score in zip(*columns, strict=True):
            merged.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
    return merged


if __name__ == "__main__":
    sys.exit(main())

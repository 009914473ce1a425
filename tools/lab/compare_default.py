#!/usr/bin/env python
"""Compare what the shipped model could have been made of: detector variants and face methods.

Short trainings on the data that tools/lab/train_default.py has made, alike but for what is
compared, once per seed; measured on validation photos, never on test photos. docs/model_card.md
tells what came out.

  detectors   BlendMask, then with frequency attention, with contrasts, with all of COMICS: each
              goes on from the recipe's first stage. AUC is of the detector's own P(fake).
  faces       cross-entropy and the four methods, each from the recipe's ImageNet encoder. AUC is
              over all annotated faces, after the last step.

Runs go to OUTPUT/<part>/<variant>/seed<n>; what is done is not done again. OUTPUT gets
<part>.md and <part>.csv. On two cores a seed takes about 20 minutes for either part.

Exit code: 0 done; 2 unusable arguments; 1 a run failed (its log is shown; others go on).

Example:
  tools/lab/compare_default.py --recipe-output output/default --output output/comparison --seeds 0 1
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "Default"
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2
PROPOSAL, PIXEL = "MODEL.COMICS.PROPOSAL.ENABLED", "MODEL.COMICS.PIXEL.ENABLED"
FREQUENCY = "MODEL.COMICS.FEA.ENABLED"
DETECTORS = {
    "BlendMask": ["MODEL.META_ARCHITECTURE", "BlendMask"],
    "+ frequency attention": [PROPOSAL, "False", PIXEL, "False"],
    "+ frequency attention, pixel contrast": [PROPOSAL, "False"],
    "+ both contrasts": [FREQUENCY, "False"],
    "COMICS: all three": [],
}
# What configs/Face/Quickstart says of each method, for few steps: banks that these fill
FACES = {
    "CrossEntropy": [],
    "DCL": [
        "MODEL.FACE.DCL.BANK_SIZE", "1024", "MODEL.FACE.DCL.WEIGHTS", "[0.02, 0.02, 0.001]",
        "MODEL.FACE.DCL.WARMUP_EPOCHS", "1", "MODEL.FACE.DCL.MASK_THRESHOLD", "3.0",
    ],
    "RealCentric": [
        "MODEL.FACE.REAL_CENTRIC.STAGE1_EPOCHS", "1", "MODEL.FACE.REAL_CENTRIC.HIDDEN_DIM", "256",
    ],
    "GuideSpace": [
        "MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS", "8", "MODEL.FACE.GUIDE_SPACE.GUIDE_WEIGHT", "0.1",
        "MODEL.FACE.GUIDE_SPACE.BANK_SIZE", "1024", "MODEL.FACE.GUIDE_SPACE.ADJUST_EPOCH", "1",
        "MODEL.FACE.GUIDE_SPACE.NEIGHBOURS", "20", "MODEL.FACE.GUIDE_SPACE.EMBEDDING_DIM", "128",
    ],
    "CompressionRelation": [
        "MODEL.FACE.EMBEDDING.DIM", "128", "MODEL.FACE.EMBEDDING.HIDDEN_DIM", "256",
        "MODEL.FACE.EMBEDDING.PREDICTOR_DIM", "128",
        "MODEL.FACE.COMPRESSION_RELATION.BANK_SIZE", "1024",
        "MODEL.FACE.COMPRESSION_RELATION.KEY_MOMENTUM", "0.99",
    ],
}  # fmt: skip
DETECTOR_STEPS, FACE_STEPS = 120, 320
CROP_SIZE = 80  # pixels: the comparison, not the result, is what this is for
MEASURED_PHOTOS = 200  # of the validation split, drawn


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe-output", type=Path, default=Path("output/default"), metavar="FOLDER",
        help="of tools/lab/train_default.py, with its data and first stages (output/default)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--parts", nargs="+", choices=("detectors", "faces"),
                        default=("detectors", "faces"))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,), help="default: 0")
    parser.add_argument("--iterations", type=int, metavar="N", help="of each run, for a trial")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run what is not done, and write the tables; returns the exit code."""
    options = build_parser().parse_args(arguments)
    recipe = options.recipe_output
    needed = {
        "detectors": recipe / "detector_base" / "model_final.safetensors",
        "faces": recipe / "imagenet_face.safetensors",
    }
    absent = [str(needed[part]) for part in options.parts if not needed[part].is_file()]
    if absent:
        print(f"compare_default.py: there is no file {absent[0]}", file=sys.stderr)
        return EXIT_ARGUMENTS
    failed = False
    for part in options.parts:
        runner, variants = (detector_run, DETECTORS) if part == "detectors" else (face_run, FACES)
        rows = []
        for seed in options.seeds:  # seed by seed, so that an early look compares all variants
            for variant in variants:
                folder = options.output / part / _file_name(variant) / f"seed{seed}"
                try:
                    figures = runner(options, variant, seed, folder)
                except subprocess.CalledProcessError as error:
                    print(f"compare_default.py: {variant}, seed {seed}: exit code "
                          f"{error.returncode}", file=sys.stderr)  # fmt: skip
                    failed = True
                    continue
                rows.append({"variant": variant, "seed": seed, **figures})
        if rows:
            print(write_tables(options.output / part, rows))
    return EXIT_FAILED if failed else 0


def detector_run(
    options: argparse.Namespace, variant: str, seed: int, folder: Path
) -> dict[str, float]:
    """Figures of one detector, trained and measured as far as it has not been."""
    recipe = options.recipe_output
    weights = folder / "model_final.safetensors"
    if not weights.is_file():
        _train(
            "detector.yaml", folder, seed, options.iterations or DETECTOR_STEPS,
            "MODEL.WEIGHTS", recipe / "detector_base" / "model_final.safetensors",
            "DATASETS.TRAIN", [str(recipe / "data" / str(n) / "train.json") for n in range(3)],
            "DATASETS.VAL", [], *DETECTORS[variant],
        )  # fmt: skip
    figures = folder / "val" / "figures.json"
    if not figures.is_file():
        _run("benchmark_photos.py", "--weights", weights, "--data", recipe / "data" / "0",
             "--output", folder / "val", "--splits", "val", "--limit", MEASURED_PHOTOS)  # fmt: skip
    content = json.loads(figures.read_text(encoding="utf-8"))["figures"]
    large = next(value for name, value in content.items() if "px and more" in name)
    return {
        "faces found": 100 * large["faces found"]["value"],
        "false faces a photo": large["false faces a photo"]["value"],
        "AUC": 100 * large["AUC"]["value"],
    }


def face_run(
    options: argparse.Namespace, variant: str, seed: int, folder: Path
) -> dict[str, float]:
    """Figures of one face method, trained as far as it has not been."""
    recipe = options.recipe_output
    if not (folder / "model_final.safetensors").is_file():
        _train(
            "face_base.yaml", folder, seed, options.iterations or FACE_STEPS,
            "MODEL.FACE.METHOD", variant, "MODEL.FACE.CROP_SIZE", CROP_SIZE,
            "MODEL.FACE.ENCODER_WEIGHTS", recipe / "imagenet_face.safetensors",
            "DATASETS.TRAIN", [str(recipe / "data" / "0" / "train.json")],
            "DATASETS.VAL", [str(recipe / "data" / "0" / "val.json")],
            "TEST.EVAL_PERIOD", 0, *FACES[variant],
        )  # fmt: skip
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = next(line for line in map(json.loads, reversed(lines)) if "face/AUC" in line)
    return {"AUC": 100 * last["face/AUC"], "accuracy": 100 * last["face/accuracy"]}


def write_tables(path: Path, rows: list[Mapping]) -> str:
    """``path``.csv, a line per run; ``path``.md, mean and range over the seeds, also returned."""
    names = [name for name in rows[0] if name not in ("variant", "seed")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["variant", "seed", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = [f"| | seeds | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == variant]
        cells = [_cell([run[name] for run in runs]) for name in names]
        lines.append(f"| {variant} | {len(runs)} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def _cell(values: list[float]) -> str:
    digits = 3 if max(values) < 1 else 1  # a count per photo; else a percentage
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _file_name(variant: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in variant).strip("_")


def _train(config: str, folder: Path, seed: int, steps: int, *words: object) -> None:
    _run("train_net.py", "--resume", "--config-file", CONFIGS / config, "OUTPUT_DIR", folder,
         "SEED", seed, "SOLVER.MAX_ITER", steps, *words)  # fmt: skip


def _run(tool: str, *words: object) -> None:
    command: Iterable[str] = [sys.executable, str(ROOT / "tools" / tool), *map(str, words)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())

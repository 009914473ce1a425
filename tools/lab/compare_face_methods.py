#!/usr/bin/env python
"""Train face methods with several seeds and compare them with cross-entropy, in one table.

Every method trains on the same faces: --train-methods of the manifest's split "train", at
--compression; the checkpoint is chosen on its split "val", alike. It is then measured on "test":

  in-domain           the forgery methods and the compression of training
  unseen method       --unseen-methods, at the compression of training
  unseen compression  the forgery methods of training, at --unseen-compression

CompressionRelation and CE_mixed train on views at MODEL.FACE.COMPRESSION_RELATION.STRONG too, so
that compression is not unseen for them; the table says so.

Runs go to OUTPUT/<method>/seed<n>; what is done is not done again, what was interrupted goes on.
OUTPUT gets table.md, table.csv (a line per method, seed and condition).
Exit code: 0 done; 2 unusable arguments; 1 a run failed (its folder has the log; others go on).

Example:
  tools/make_face_videos.py --identities 80 --frames 2 --strength 2 \\
      --unseen-methods self_blend --output output/faces
  tools/lab/compare_face_methods.py --manifest output/faces/manifest.csv \\
      --train-methods swap_poisson part_swap down_up upsampling_grid \\
      --unseen-methods self_blend --output output/comparison
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "Face" / "Quickstart"
METHODS = ("CE", "CE_mixed", "DCL", "RealCentric", "GuideSpace", "CompressionRelation")
BASELINE = "CE"
SEES_STRONG = ("CE_mixed", "CompressionRelation")
CONDITIONS = ("in-domain", "unseen method", "unseen compression")
FIGURES = "figures.json"  # of a run that has been measured
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", required=True, help="CSV with split, method, compression")
    parser.add_argument("--train-methods", required=True, nargs="+", metavar="NAME")
    parser.add_argument("--unseen-methods", required=True, nargs="+", metavar="NAME")
    parser.add_argument("--compression", default="c23", help="of training (default: c23)")
    parser.add_argument("--unseen-compression", default="c40", help="default: c40")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--configs", type=Path, default=QUICKSTART, help="folder of <method>.yaml")
    parser.add_argument("--methods", nargs="+", default=METHODS, help=f"default: {METHODS}")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="default: 0 1 2")
    parser.add_argument("--metric", default="AUC", help="of the table (default: AUC)")
    parser.add_argument("--level", choices=("face", "video"), default="face")
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="for every run, after --")
    return parser


def training_entry(arguments: argparse.Namespace, method: str) -> str:
    """What a method trains on: rows of the strong compression too where it has views of them."""
    chosen = "|".join(["real", *arguments.train_methods])
    levels = [arguments.compression]
    levels += [arguments.unseen_compression] if method in SEES_STRONG else []
    return f"{arguments.manifest}@split=train,method={chosen},compression={'|'.join(levels)}"


def entries(arguments: argparse.Namespace, split: str) -> dict[str, str]:
    """Condition -> data set entry of a split."""

    def entry(methods: Sequence[str], compression: str) -> str:
        chosen = "|".join(["real", *methods])
        return f"{arguments.manifest}@split={split},method={chosen},compression={compression}"

    known, unseen = arguments.train_methods, arguments.unseen_methods
    named = [
        entry(known, arguments.compression),
        entry(unseen, arguments.compression),
        entry(known, arguments.unseen_compression),
    ]
    return dict(zip(CONDITIONS, named, strict=True))


def run_one(arguments: argparse.Namespace, method: str, seed: int) -> dict[str, dict[str, float]]:
    """Train and measure one method with one seed, as far as it has not been done.

    Returns:
        Condition -> figure -> value.

    Raises:
        subprocess.CalledProcessError: if a tool fails.
    """
    folder = arguments.output / method / f"seed{seed}"
    done = folder / FIGURES
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    train = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file"]
    train += [str(arguments.configs / f"{method}.yaml")]
    domain, domains = training_entry(arguments, method), len(arguments.train_methods)
    validation = entries(arguments, "val")["in-domain"]
    tests = entries(arguments, "test")
    shared = [
        "SEED", seed, "OUTPUT_DIR", folder, "INPUT.FACE.METHODS", list(arguments.train_methods),
        "MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS", domains, "MODEL.FACE.MULTICLASS.NUM_DOMAINS", domains,
        "MODEL.FACE.COMPRESSION_RELATION.WEAK", arguments.compression,
        "MODEL.FACE.COMPRESSION_RELATION.STRONG", arguments.unseen_compression,
        "DATASETS.TRAIN", [domain], "DATASETS.VAL", [validation],
        "DATASETS.TEST", list(tests.values()), *arguments.options,
    ]  # fmt: skip
    shared = [str(word) for word in shared]
    if not (folder / "model_final.safetensors").is_file():
        subprocess.run([*train, "--resume", *shared], check=True)
    best = folder / "model_best.safetensors"  # absent where the validation set defines no figure
    weights = best if best.is_file() else folder / "model_final.safetensors"
    subprocess.run([*train, "--eval-only", "--weights", str(weights), *shared], check=True)
    figures = read_figures(folder, arguments.level)
    done.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def read_figures(folder: Path, level: str) -> dict[str, dict[str, float]]:
    """Condition -> figures of the predictions that ``--eval-only`` left."""
    from comics.evaluation.predictions import load_predictions, metrics_at

    figures = {}
    for position, condition in enumerate(CONDITIONS):
        table = next((folder / "inference").glob(f"{position}_*.csv"))
        figures[condition] = metrics_at(load_predictions(table), level).values
    return figures


def verdict(gains: np.ndarray) -> str:
    """What gains over the baseline, [seeds], say; plainly."""
    if np.isnan(gains).any():
        return "undefined"
    mean = float(gains.mean())
    if mean <= 0:
        return "does not help"
    if len(gains) > 1 and mean > gains.std(ddof=1) and (gains > 0).all():
        return "helps"
    return "no clear difference"


def table(results: Mapping[str, Mapping[int, dict]], metric: str) -> str:
    """Markdown: mean +- sd of the metric x100 over the seeds, and the gain over the baseline."""
    head = ["method", *(f"{c} {metric}" for c in CONDITIONS), *(f"{c}: vs CE" for c in CONDITIONS)]
    rows = [head, ["---"] * len(head)]
    base = results.get(BASELINE, {})
    for method, runs in results.items():
        cells, gains = [], []
        for condition in CONDITIONS:
            values = 100 * np.array([run[condition][metric] for run in runs.values()])
            cells.append(f"{values.mean():.1f} ± {_deviation(values):.1f} (n = {len(values)})")
            shared = [seed for seed in runs if seed in base and method != BASELINE]
            gain = np.array(
                [100 * (runs[s][condition][metric] - base[s][condition][metric]) for s in shared]
            )
            text = f"{gain.mean():+.1f} ± {_deviation(gain):.1f}, {verdict(gain)}" if shared else ""
            seen = condition == CONDITIONS[2] and method in SEES_STRONG and bool(shared)
            gains.append(text + (" (saw it in training)" if seen else ""))
        rows.append([method, *cells, *gains])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def write_lines(path: Path, results: Mapping[str, Mapping[int, dict]]) -> None:
    """A CSV with a line per method, seed and condition."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = None
        for method, runs in results.items():
            for seed, conditions in runs.items():
                for condition, values in conditions.items():
                    row = {"method": method, "seed": seed, "condition": condition, **values}
                    if writer is None:
                        writer = csv.DictWriter(file, list(row), lineterminator="\n")
                        writer.writeheader()
                    writer.writerow(row)


def main(words: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    arguments = build_parser().parse_args(words)
    absent = [m for m in arguments.methods if not (arguments.configs / f"{m}.yaml").is_file()]
    if absent or not Path(arguments.manifest).is_file():
        missing = f"{arguments.configs}/{absent[0]}.yaml" if absent else arguments.manifest
        print(f"compare_face_methods.py: there is no file {missing}", file=sys.stderr)
        return EXIT_ARGUMENTS
    results: dict[str, dict[int, dict]] = {}
    failed = []
    for seed in arguments.seeds:  # seed by seed, so that an early look compares all methods
        for method in arguments.methods:
            try:
                figures = run_one(arguments, method, seed)
            except subprocess.CalledProcessError as error:
                failed.append(f"{method}, seed {seed}: exit code {error.returncode}")
                continue
            results.setdefault(method, {})[seed] = figures
    if results:
        text = table(results, arguments.metric)
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "table.md").write_text(text, encoding="utf-8")
        write_lines(arguments.output / "table.csv", results)
        print(text)
    for line in failed:
        print(f"compare_face_methods.py: {line}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())

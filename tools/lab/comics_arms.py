#!/usr/bin/env python
"""Which of COMICS' additions helps on corrupted photos: the arms of Table IV and an oracle.

Every arm (configs/Arms) trains from the same ImageNet encoder, with the same steps and seeds, on
--data (datasets/prepare_open_faces.py), and is measured after its last step on test_dev,
test_challenge and its subsets. What counts as shown was written before: docs/protocols.md#arms.

Runs go to OUTPUT/<arm>/seed<n>; what is done is not done again, a training that was interrupted
goes on from its last checkpoint: the same command continues. OUTPUT gets arms.md (tables in Table
IV's layout beside the paper's figures, differences with paired intervals over photos, verdicts) and
arms.json, after every run; --table writes them of what is there and trains nothing.

Exit code: 0 done; 2 unusable arguments or files; else that of the training that failed.

Example:
  tools/lab/comics_arms.py --data datasets/open_faces --imagenet efficientnet-lite0-57934424.pth \\
      --output output/arms --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from comics.evaluation.metrics import Metrics
    from comics.evaluation.paired_detection import Difference

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "Arms"
EXIT_ARGUMENTS = 2
BASELINE, ORACLE = "none", "oracle"
# Name of the configuration -> whether DA, FEA and both contrasts are on (None: not of the table)
ARMS: Mapping[str, tuple[bool, bool, bool] | None] = {
    "none": (False, False, False),
    "DA": (True, False, False),
    "oracle": None,
    "Bi": (False, False, True),
    "DA_FEA_Bi": (True, True, True),
    "FEA": (False, True, False),
    "DA_FEA": (True, True, False),
    "DA_Bi": (True, False, True),
    "FEA_Bi": (False, True, True),
}
DEFAULT_ARMS = tuple(name for name in ARMS if name != "FEA_Bi")
SETS = ("test_dev", "test_challenge", "test_challenge_named", "test_challenge_degraded",
        "test_challenge_weather")  # fmt: skip
NAMED = "test_challenge_named"  # where the criteria are asked
CLEAN = "test_dev"
COLUMNS = ("AP", "AP_S", "AP_M", "AP_L", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
COMPARED = {"bbox/AP": "box AP", "segm/AP": "mask AP", "AUC_all": "face AUC"}
JUDGED = "segm/AP"  # the figure of the criteria
# The criteria, points: docs/protocols.md#arms
ENOUGH, TOO_LITTLE, SHARE_OF_ORACLE, LEAST_AUC = 10.0, 5.0, 0.5, 70.0
# The same at R-50, for a GPU: what its backbone needs, and squares and steps that it has time for
RECIPES: Mapping[str, Sequence[str]] = {
    "light": (),
    "r50": (
        "MODEL.BACKBONE.NAME", "resnet", "MODEL.BACKBONE.FREEZE_AT", "2",
        "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]",
        "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]", "MODEL.FPN.OUT_CHANNELS", "256",
        "MODEL.FCOS.NUM_CLS_CONVS", "4", "MODEL.FCOS.NUM_BOX_CONVS", "4",
        "MODEL.BASIS_MODULE.CONVS_DIM", "128", "MODEL.BASIS_MODULE.NUM_CONVS", "3",
        "MODEL.BLENDMASK.ATTN_SIZE", "14", "MODEL.BLENDMASK.BOTTOM_RESOLUTION", "56",
        "INPUT.MOSAIC.SIZE", "512", "INPUT.MIN_SIZE_TRAIN", "[448, 512, 576, 640]",
        "INPUT.MAX_SIZE_TRAIN", "1024", "INPUT.MIN_SIZE_TEST", "544", "INPUT.MAX_SIZE_TEST", "1024",
        "SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "0.0003", "SOLVER.MAX_ITER", "3000",
        "SOLVER.WARMUP_ITERS", "200", "SOLVER.CHECKPOINT_PERIOD", "500",
        "DATALOADER.NUM_WORKERS", "8", "MODEL.COMICS.PROPOSAL.MATCH_WARMUP_ITERS", "500",
    ),
}  # fmt: skip
# Table IV of the paper: set -> (DA, FEA, Bi) -> COLUMNS of boxes, then of masks
PAPER: Mapping[str, Mapping[tuple[bool, bool, bool], str]] = {
    "test_dev": {
        (False, False, False): "87.0 32.7 86.3 88.0 19.5 6.2 2.4 6.2 "
                               "89.2 19.8 87.3 91.0 18.3 5.4 2.5 6.3",
        (True, False, False): "88.4 30.9 85.6 90.1 17.4 6.2 2.7 3.4 "
                              "91.7 14.8 88.3 94.1 15.2 4.9 2.7 3.7",
        (False, True, False): "88.8 33.6 86.3 90.4 16.9 6.2 2.8 2.8 "
                              "92.6 17.1 89.5 94.9 14.5 4.6 2.3 3.9",
        (False, False, True): "88.9 31.7 86.0 90.5 17.4 6.1 3.1 3.3 "
                              "92.3 15.0 88.9 94.5 15.2 4.7 3.0 3.9",
        (True, True, False): "88.2 31.5 85.4 90.0 17.4 6.3 2.7 3.2 "
                             "92.2 16.4 88.9 94.6 14.8 4.8 2.9 3.3",
        (False, True, True): "88.3 32.9 85.6 90.0 17.7 6.3 2.9 3.5 "
                             "91.6 16.3 88.3 93.8 15.6 5.0 2.9 3.8",
        (True, False, True): "88.2 31.1 85.6 89.9 17.7 6.3 2.8 3.5 "
                             "91.9 14.1 88.3 94.2 15.3 4.8 2.7 3.9",
        (True, True, True): "88.2 32.3 85.7 89.9 17.4 6.2 2.5 3.5 "
                            "92.3 16.3 89.1 94.6 14.7 4.7 2.6 3.6",
    },
    "test_challenge": {
        (False, False, False): "53.9 13.5 56.6 53.5 60.2 10.6 26.5 37.4 "
                               "54.0 7.1 54.5 54.5 59.9 9.8 26.4 38.4",
        (True, False, False): "73.1 15.6 71.0 74.7 40.2 9.2 12.4 18.3 "
                              "74.8 6.0 70.1 77.7 39.2 8.2 12.7 18.6",
        (False, True, False): "67.5 16.4 66.0 68.9 47.0 9.6 16.5 24.6 "
                              "68.1 6.3 62.7 71.5 46.4 8.5 16.5 25.7",
        (False, False, True): "69.0 15.3 66.0 70.9 44.9 9.6 14.9 22.5 "
                              "69.4 4.9 62.6 73.1 44.3 8.6 14.3 24.1",
        (True, True, False): "73.5 17.8 71.4 75.3 38.4 8.1 11.5 18.7 "
                             "75.1 6.5 70.0 78.4 39.4 9.3 12.0 17.4",
        (False, True, True): "68.4 17.4 65.9 70.4 45.4 9.7 15.2 2.3 "
                             "68.5 6.1 62.2 72.3 45.1 8.7 15.0 24.5",
        (True, False, True): "73.7 17.8 71.6 75.3 39.3 9.2 12.5 16.9 "
                             "75.7 5.7 70.9 78.6 38.1 8.1 12.1 17.7",
        (True, True, True): "74.6 19.2 72.1 76.4 36.5 9.0 10.0 16.9 "
                            "76.6 7.1 71.6 79.7 36.3 7.9 9.6 17.9",
    },
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the set")
    parser.add_argument("--imagenet", type=Path, metavar="FILE", help="weights of the encoder")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS, metavar="NAME",
                        help=f"default: {' '.join(DEFAULT_ARMS)}")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1), metavar="SEED")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="NAME", help="to measure")
    parser.add_argument("--recipe", choices=RECIPES, default="light", help="default: light")
    parser.add_argument("--samples", type=int, default=500, help="resamples of photos (500)")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("words", nargs="*", metavar="KEY VALUE", help="of every arm, after --")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run what is not done; returns the exit code."""
    options = build_parser().parse_args(arguments)
    needed = [
        options.data / "train.json",
        *(options.data / f"{name}.json" for name in options.sets),
    ]
    absent = [path for path in needed if not path.is_file()]
    if not options.table and not (options.imagenet and options.imagenet.is_file()):
        absent.insert(0, options.imagenet or Path("--imagenet"))
    if absent:
        print(f"comics_arms.py: there is no file {absent[0]}", file=sys.stderr)
        return EXIT_ARGUMENTS
    for seed in options.seeds:  # seed by seed, so that an early look compares all arms
        for arm in options.arms:
            folder = run_folder(options.output, arm, seed)
            if options.table or (folder / "seconds.json").is_file():
                continue
            code = _run_arm(options, arm, seed)
            if code:
                return code
            write_tables(options)
    write_tables(options)
    return 0


def run_folder(output: Path, arm: str, seed: int) -> Path:
    """Where a run's files are."""
    return output / arm / f"seed{seed}"


def training_words(options: argparse.Namespace, arm: str, seed: int) -> list[str]:
    """Words of an arm's training."""
    return [
        "--resume", "--config-file", str(CONFIGS / f"{arm}.yaml"),
        "MODEL.WEIGHTS", str(options.imagenet), "SEED", str(seed),
        "OUTPUT_DIR", str(run_folder(options.output, arm, seed)),
        "DATASETS.TRAIN", str([str(options.data / "train.json")]), "DATASETS.VAL", "[]",
        "TEST.EVAL_PERIOD", "0", *RECIPES[options.recipe], *options.words,
    ]  # fmt: skip


def _run_arm(options: argparse.Namespace, arm: str, seed: int) -> int:
    """Train an arm and predict every set, as far as it has not been done; the exit code."""
    folder = run_folder(options.output, arm, seed)
    final = folder / "model_final.safetensors"
    began = time.monotonic()
    if not final.is_file():
        words = [str(ROOT / "tools" / "train_net.py"), *training_words(options, arm, seed)]
        print(f"\n$ {shlex.join(words)}", flush=True)
        code = subprocess.run([sys.executable, *words], check=False).returncode
        if code:
            return code
    trained = time.monotonic()
    _predict(final, options, folder)
    seconds = {"training": trained - began, "testing": time.monotonic() - trained}
    (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    return 0


def _predict(weights: Path, options: argparse.Namespace, folder: Path) -> None:
    """Results files of every set that has none yet."""
    from comics.evaluation.detector import PREDICTIONS, evaluate_entry
    from comics.modeling.build import choose_device, load_model

    missing = [name for name in options.sets if not results_of(folder, name).is_file()]
    if not missing:
        return
    device = choose_device("auto")
    model, cfg, _ = load_model(weights, device)
    for name in missing:
        entry = str((options.data / f"{name}.json").absolute())
        own = folder / f"{name}.tmp"
        outcome = evaluate_entry(cfg, model, entry, own, device, ["bbox"])
        for path in outcome.skipped:
            print(f"{path} could not be read", file=sys.stderr)
        os.replace(own / PREDICTIONS, results_of(folder, name))
        own.rmdir()


def results_of(folder: Path, name: str) -> Path:
    """COCO results of a run on a set."""
    return folder / f"{name}.results.json"


# -- the tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A run on a set.

    Attributes:
        figures: every figure, 0 to 1.
        resampled: those of ``COMPARED``, for all photos and for each resample of them.
    """

    figures: dict[str, float]
    resampled: dict[str, np.ndarray]


Runs = dict[str, dict[str, dict[int, Measured]]]  # arm -> set -> seed


def read_runs(options: argparse.Namespace) -> Runs:
    """The runs whose results are there, measured again from these."""
    from comics.evaluation.ground_truth import load_ground_truth
    from comics.evaluation.metrics import evaluate
    from comics.evaluation.paired_detection import photo_weights, weighted_figure

    runs: Runs = {}
    for name in options.sets:
        truth = load_ground_truth(options.data / f"{name}.json")
        weights = photo_weights(len(truth.image_ids), options.samples)
        for arm in ARMS:
            for seed in options.seeds:
                results = results_of(run_folder(options.output, arm, seed), name)
                if not results.is_file():
                    continue
                metrics = evaluate(truth, results)
                resampled = {key: weighted_figure(metrics, key, weights) for key in COMPARED}
                own = runs.setdefault(arm, {}).setdefault(name, {})
                own[seed] = Measured(figures_of(metrics), resampled)
    return runs


def figures_of(metrics: Metrics) -> dict[str, float]:
    """Every figure of a run on a set, 0 to 1: AP, oLRP and its parts, AUC of the faces."""
    from comics.evaluation.faces import face_metrics, face_verdicts

    figures = metrics.flat()
    try:
        faces = face_metrics(face_verdicts(metrics, "bbox"))
    except ValueError:  # no face was found
        return figures
    return figures | {name: faces.values[name] for name in ("AUC", "AUC_all", "faces_found")}


def write_tables(options: argparse.Namespace) -> None:
    """arms.md and arms.json of what is done; the former is printed too."""
    runs = read_runs(options)
    figures = {
        arm: {name: [one.figures for one in seeds.values()] for name, seeds in sets.items()}
        for arm, sets in runs.items()
    }
    differences = {arm: found for arm in runs if arm != BASELINE and (found := gains(runs, arm))}
    parts = ["# Arms of COMICS", *(set_table(figures, name) for name in options.sets),
             difference_table(differences, options.sets),
             *(verdict(arm, figures, differences) for arm in ("DA", "Bi"))]  # fmt: skip
    text = "\n\n".join(part for part in parts if part) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "arms.md").write_text(text, encoding="utf-8")
    content = {
        "figures": figures,
        "differences": {
            arm: {name: {key: vars(value) for key, value in own.items()}
                  for name, own in sets.items()}
            for arm, sets in differences.items()
        },
    }  # fmt: skip
    stored = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    (options.output / "arms.json").write_text(stored, encoding="utf-8")
    print(text, flush=True)


def _without_nan(value):
    """The same for JSON: null for what is not defined."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def gains(runs: Runs, arm: str) -> dict[str, dict[str, Difference]]:
    """Set -> figure -> what an arm has more than the baseline, over the seeds that both have."""
    from comics.evaluation.paired_detection import paired_difference

    found: dict[str, dict[str, Difference]] = {}
    for name, own in runs[arm].items():
        base = runs.get(BASELINE, {}).get(name, {})
        shared = [seed for seed in own if seed in base]
        if shared:
            found[name] = {
                key: paired_difference(
                    [own[seed].resampled[key] for seed in shared],
                    [base[seed].resampled[key] for seed in shared],
                )
                for key in COMPARED
            }
    return found


def set_table(figures: Mapping[str, Mapping[str, Sequence[Mapping]]], name: str) -> str:
    """A set's table in Table IV's layout, means over seeds x100, each paper's row below ours."""
    from comics.evaluation.tables import markdown_table

    heading = ["DA", "FEA", "Bi", "seeds"]
    heading += [f"{what} {c.removeprefix('oLRP_')}" for what in ("box", "mask") for c in COLUMNS]
    heading += ["face AUC", "faces found"]
    rows = []
    for arm, switches in ARMS.items():
        own = figures.get(arm, {}).get(name, [])
        marks = ["✓" if on else "−" for on in switches] if switches else [arm, "", ""]
        if own:
            keys = [f"{mode}/{c}" for mode in ("bbox", "segm") for c in COLUMNS]
            cells = [_mean(own, key) for key in (*keys, "AUC_all", "faces_found")]
            rows.append([*marks, str(len(own)), *cells])
        printed = PAPER.get(name, {}).get(switches, "") if switches else ""
        if own and printed:
            rows.append([*marks, "paper", *printed.split(), "", ""])
    return f"## {name}\n\n{markdown_table(heading, rows)}" if rows else ""


def _mean(runs: Sequence[Mapping[str, float]], key: str) -> str:
    values = [100 * run[key] for run in runs if key in run and not math.isnan(run[key])]
    return f"{sum(values) / len(values):.1f}" if values else "–"


def difference_table(differences: Mapping[str, Mapping], sets: Sequence[str]) -> str:
    """What each arm has more than the baseline, points, with intervals over photos."""
    from comics.evaluation.tables import markdown_table

    rows = [
        [arm, figure, *(own[name][key].text if name in own else "" for name in sets)]
        for arm, own in differences.items()
        for key, figure in COMPARED.items()
    ]
    if not rows:
        return ""
    note = f"Differences to {BASELINE}, points: mean over seeds, 95 % intervals, paired over photos"
    return f"## Differences\n\n{note}\n\n{markdown_table(['arm', 'figure', *sets], rows)}"


def verdict(arm: str, figures: Mapping, differences: Mapping) -> str:
    """What the criteria of docs/protocols.md#arms say of an arm, in a sentence; "" without runs."""
    gain = differences.get(arm, {}).get(NAMED, {}).get(JUDGED)
    best = differences.get(ORACLE, {}).get(NAMED, {}).get(JUDGED)
    if gain is None or best is None:
        return ""
    told = max(
        (100 * run["AUC_all"] for sets in figures.values() for run in sets.get(CLEAN, ())
         if run.get("AUC_all", -1.0) >= 0),
        default=0.0,
    )  # fmt: skip
    said = judge(100 * gain.mean, 100 * gain.low, 100 * best.mean, told)
    return (
        f"**{arm}: {said}.** On {NAMED}, mask AP, {arm} − {BASELINE} is {gain.text}, the oracle's "
        f"gain {best.text}; the best face AUC of any arm on {CLEAN} is {told:.1f}."
    )


def judge(gain: float, low: float, oracle: float, best_auc: float) -> str:
    """The criteria: what is shown by a gain, its lower bound and the oracle's gain (points).

    Args:
        gain: of the arm, mask AP on the named subset.
        low: lower end of its interval.
        oracle: gain of the oracle there.
        best_auc: highest face AUC of any arm on the clean set, x100.
    """
    if best_auc < LEAST_AUC:
        return "no experiment: no arm tells forged from real, data or schedule are at fault"
    if oracle < ENOUGH:
        return "uninformative: the oracle gains little"
    if gain >= ENOUGH and low > 0 and gain >= SHARE_OF_ORACLE * oracle:
        return "shown"
    if gain < TOO_LITTLE:
        return "not reproduced on this data"
    return "between: neither shown nor refuted"


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""What a classifier says of a source that it was not trained on: short trainings without each.

For every --source and seed, the training of --config-file runs without TRAIN, and for
every seed once with all sources; the others keep their shares. All are measured on every VAL after
their last step. A training whose figures are there is not done again, and one that was interrupted
goes on from its last checkpoint: the same command continues. Words after -- go to each training,
after the configuration.

Printed, and written to OUTPUT/left_out.md: AUC on each source, trained on all and trained without
it, mean and range of the seeds.

Exit code: 0 done; else that of the training that failed.

Example:
  tools/lab/leave_out_sources.py --config-file configs/Default/face_sources.yaml --output out \\
      --source own own.csv val_own.csv 0.5 --source dfdc dfdc.csv val_dfdc.csv 0.5 \\
      --seeds 0 1 -- SOLVER.MAX_ITER 600
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_ARGUMENTS = 2
TRAIN = Path(__file__).resolve().parents[1] / "train_net.py"
EVERYTHING = "none"  # left out, in names of folders


@dataclass(frozen=True)
class Source:
    """A source of forgeries and of the real faces beside them; entries of DATASETS."""

    name: str
    train: str
    val: str
    share: float


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--source",
        nargs=4,
        action="append",
        required=True,
        metavar=("NAME", "TRAIN", "VAL", "SHARE"),
        help="entries of DATASETS, and its share of a batch; once for each source",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("words", nargs="*", metavar="KEY VALUE", help="of the configuration")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run what is not done; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        sources = _sources(options.source)
    except ValueError as error:
        print(f"leave_out_sources.py: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    # All sources first, then one left out after the other: a table as soon as there is one seed
    for seed in options.seeds:
        for left_out in (EVERYTHING, *(source.name for source in sources)):
            words = command(options, sources, left_out, seed)
            if (run_folder(options.output, left_out, seed) / "model_final.safetensors").is_file():
                continue
            print(f"\n$ {shlex.join(words)}", flush=True)
            code = subprocess.run([sys.executable, *words], check=False).returncode
            if code:
                return code
            _write(options, sources)
    _write(options, sources)
    return 0


def _sources(texts: Sequence[Sequence[str]]) -> list[Source]:
    """The sources of the command line.

    Raises:
        ValueError: for a share that is no positive number, a name that comes twice, or one source.
    """
    sources = [Source(name, train, val, _share(share)) for name, train, val, share in texts]
    names = [source.name for source in sources]
    if len(sources) < 2:
        raise ValueError("to leave one out, two sources are needed")
    if len(set(names)) < len(names) or EVERYTHING in names:
        raise ValueError(f"names of sources, each once, none of them {EVERYTHING!r}: {names}")
    return sources


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not share > 0:
        raise ValueError(f"a share is a positive number, not {text!r}")
    return share


def command(
    options: argparse.Namespace, sources: Sequence[Source], left_out: str, seed: int
) -> list[str]:
    """Words of the training without a source."""
    kept = [source for source in sources if source.name != left_out]
    return [
        str(TRAIN), "--resume", "--config-file", options.config_file,
        "DATASETS.TRAIN", str([source.train for source in kept]),
        "DATASETS.TRAIN_SHARES", str([source.share for source in kept]),
        "DATASETS.VAL", str([source.val for source in sources]),
        "TEST.EVAL_PERIOD", "0", "SEED", str(seed),
        "OUTPUT_DIR", str(run_folder(options.output, left_out, seed)), *options.words,
    ]  # fmt: skip


def run_folder(output: Path, left_out: str, seed: int) -> Path:
    """Where a training writes to."""
    return output / f"without_{left_out}_seed_{seed}"


def auc_on(folder: Path, entry: str) -> float | None:
    """AUC on an entry of DATASETS.VAL after a training's last step; None if it is not done."""
    log = folder / "metrics.jsonl"
    if not (folder / "model_final.safetensors").is_file() or not log.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    found = [line[key] for line in lines if (key := f"{entry}/face/AUC") in line]
    return float(found[-1]) if found else None


def _write(options: argparse.Namespace, sources: Sequence[Source]) -> None:
    """left_out.md of what is done; it is printed too."""
    lines = ["| AUC on | trained on all | trained without it |", "|---|---:|---:|"]
    for source in sources:
        cells = []
        for left_out in (EVERYTHING, source.name):
            folders = [run_folder(options.output, left_out, seed) for seed in options.seeds]
            values = [100 * value for folder in folders
                      if (value := auc_on(folder, source.val)) is not None]  # fmt: skip
            cells.append(_spread(values))
        lines.append(f"| {source.name} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text, flush=True)
    (options.output / "left_out.md").write_text(text + "\n", encoding="utf-8")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = sum(values) / len(values)
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f}; {len(values)} seeds)"


if __name__ == "__main__":
    sys.exit(main())

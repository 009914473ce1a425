#!/usr/bin/env python
"""Choose temperature, threshold and unclear band from predictions that a training left behind.

A validation of a training writes a table of predictions per set (OUTPUT_DIR/inference/*.csv). From
these, one NAME=FILE per source, what tools/lab/benchmark_sources.py --choose finds by looking at
the faces again: the temperature of P(fake), every source and class counting alike;
TEST.FAKE_THRESH, which at most --false-alarms of the real faces of every source reach; and the band
below it that is unclear. NAME may be SOURCE:CONDITION, for a set that shows the faces of another
one in another way.

Predictions of a training are of crops alone, not of their mirror images; the mean of both, which a
model may use, is less extreme, so the threshold errs on the side of fewer false alarms.

Exit code: 0 done; 2 unusable arguments or files.

Example:
  tools/lab/choose_threshold.py --weights joined.safetensors --store model.safetensors \\
      --predictions own=run/inference/0_own_val.csv dfdc=run/inference/1_dfdc_val.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmark_sources import FALSE_ALARMS, UNCLEAR, choose_and_store, named

EXIT_ARGUMENTS = 2


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="model file")
    parser.add_argument("--store", type=Path, required=True, metavar="FILE", help="to write")
    parser.add_argument("--predictions", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--false-alarms", type=float, default=FALSE_ALARMS, metavar="SHARE")
    parser.add_argument("--unclear", type=float, default=UNCLEAR, metavar="SHARE")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from comics.evaluation.source_figures import SourceRows

    try:
        rows = SourceRows.of([row for text in options.predictions for row in _rows(text)])
        choose_and_store(rows, options.weights, options)
    except (OSError, KeyError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"choose_threshold.py: {message}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _rows(text: str) -> list[dict[str, object]]:
    from comics.evaluation.predictions import load_predictions

    name, path = named(text, "NAME=FILE")
    source, _, condition = name.partition(":")
    table = load_predictions(path)
    return [
        {"label": label, "fake_probability": score, "source": source,
         "condition": condition or "clean", "method": "", "group": str(number)}
        for number, (label, score) in enumerate(zip(table.labels, table.scores, strict=True))
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

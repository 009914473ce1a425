"""The command line that all preparers share, with the project's own detector to find faces."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from comics.data.given_boxes import GivenBoxes
from comics.data.preparation import (
    BOX_KINDS,
    FORMATS,
    MANIFEST,
    SAMPLINGS,
    ClipGroup,
    CropSettings,
    hold_out,
    prepare,
)
from comics.inference.load import load_predictor
from comics.inference.predictor import Predictor

EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3
SHOWN_FAULTS = 50
EXIT_CODES = "exit codes: 0 done; 2 wrong arguments or layout; 3 done, but clips were skipped."


@dataclass(frozen=True)
class DetectorBoxes:
    """Faces that a model file of this project finds; loaded once per process, on first use."""

    weights: str
    score: float
    device: str = "auto"

    def __call__(self, clip: str, frames: Mapping[int, np.ndarray]) -> dict[int, list[tuple]]:
        """Boxes of all faces in each frame, frame by frame: memory does not grow with them."""
        predictor = _predictor(self.weights, self.score, self.device)
        found = {}
        for position, frame in frames.items():
            (faces,) = predictor.predict([frame])
            found[position] = [tuple(box) for box in faces.boxes.tolist()]
        return found


@lru_cache(maxsize=1)
def _predictor(weights: str, score: float, device: str) -> Predictor:
    return load_predictor(weights, device, score_threshold=score)


def preparer_parser(description: str) -> argparse.ArgumentParser:
    """The options of every preparer; a preparer may add its own."""
    parser = argparse.ArgumentParser(description=description, epilog=EXIT_CODES)
    parser.add_argument("root", type=Path, help="the data set, as downloaded and unpacked")
    parser.add_argument("--output", type=Path, required=True, help="folder for crops and manifest")
    parser.add_argument("--frames", type=int, default=32, help="frames per clip (default 32)")
    parser.add_argument(
        "--sampling", choices=SAMPLINGS, default="even", help="how they are chosen (even)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random sampling (0)")
    parser.add_argument(
        "--margin", type=float, default=0.15, help="per side, share of the box's longer side (0.15)"
    )
    parser.add_argument("--size", type=int, default=0, help="side of crops; 0 = as in the video")
    parser.add_argument(
        "--box", choices=BOX_KINDS, default="clip", help="one box per clip, or per frame (clip)"
    )
    parser.add_argument("--format", choices=FORMATS, default="png", help="of crops (png)")
    faces = parser.add_mutually_exclusive_group()
    faces.add_argument(
        "--boxes", help="JSON of faces: {clip: {frame: [[x0, y0, x1, y1], ...]}}, from any detector"
    )
    faces.add_argument("--detector", help="model file of this project that finds the faces")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a face (0.5)")
    parser.add_argument("--device", default="auto", help="of the detector (auto)")
    parser.add_argument(
        "--val-share", type=float, default=0.0, help="of training clips, by identity, to val (0)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = this one (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def run_preparer(
    parser: argparse.ArgumentParser,
    find: Callable[[Path, argparse.Namespace], Sequence[ClipGroup]],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a preparer; returns the exit code.

    Args:
        parser: from ``preparer_parser``.
        find: the groups of clips below the root; raises ``ValueError`` for a wrong layout.
    """
    options = parser.parse_args(argv)
    name = Path(parser.prog).stem
    try:
        settings = CropSettings(
            frames=options.frames,
            sampling=options.sampling,
            seed=options.seed,
            margin=options.margin,
            size=options.size,
            box=options.box,
            picture=options.format,
        )
        groups = hold_out(find(options.root, options), options.val_share)
        report = prepare(
            options.root,
            options.output,
            groups,
            settings,
            _box_source(options),
            workers=options.workers,
            progress="" if options.quiet else name,
        )
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    for group, fault in report.faults[:SHOWN_FAULTS]:
        print(f"skipped, of {group}: {fault}", file=sys.stderr)
    if len(report.faults) > SHOWN_FAULTS:
        print(f"and {len(report.faults) - SHOWN_FAULTS} more", file=sys.stderr)
    print(
        f"{options.output / MANIFEST}: {report.rows} crops of {len(groups)} groups of clips, "
        f"{report.reused} found finished, {len(report.faults)} clips skipped"
    )
    return EXIT_SKIPPED if report.faults else 0


def _box_source(options: argparse.Namespace) -> DetectorBoxes | GivenBoxes | None:
    if options.detector:
        if not Path(options.detector).is_file():
            raise ValueError(f"there is no model file {options.detector}")
        return DetectorBoxes(options.detector, options.score, options.device)
    if options.boxes:
        source = GivenBoxes(options.boxes)
        source("", {})  # a file that cannot be read is found before any work is done
        return source
    return None

"""``comics make-face-videos``: single-face clips, real and forged, with a manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comics.commands.stopping import stop
from comics.data.face_videos import (
    DEFAULT_METHODS,
    MANIFEST,
    FaceVideoSettings,
    make_face_videos,
    open_people,
)
from comics.data.forgery import METHODS

DESCRIPTION = (
    "Make a set of single-face clips, real and forged, at several compressions, with a manifest."
)
EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3

EPILOG = """
Examples:
  drawn people, 12 of them:
    {prog} --output datasets/clips
  your own photos of real people (COCO file with keypoints5), one method kept for testing:
    {prog} --source photos/annotations.json --identities 200 \\
        --unseen-methods self_blend --output datasets/photo_clips

A run that was interrupted continues when the same command is given again.
Exit code: 0 done; 2 wrong arguments; 3 done, but clips that could not be made were skipped.
"""


def add_make_face_videos_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    default = FaceVideoSettings()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the set to")
    parser.add_argument(
        "--source", default="drawn", help='"drawn" (default), or a COCO file of real photos'
    )
    parser.add_argument(
        "--identities", type=int, default=12, help="people (default 12); 0 = all of the photos"
    )
    parser.add_argument("--clips", type=int, default=default.clips, help="per identity (2)")
    parser.add_argument("--frames", type=int, default=default.frames, help="per clip (4)")
    parser.add_argument("--size", type=int, default=default.size, help="side of crops, pixels (96)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(DEFAULT_METHODS),
        metavar="NAME",
        help=f"ways to forge (default: {', '.join(DEFAULT_METHODS)}); all: {', '.join(METHODS)}",
    )
    parser.add_argument(
        "--unseen-methods", nargs="+", default=[], metavar="NAME", help="ways for test alone"
    )
    parser.add_argument(
        "--levels", nargs="+", default=list(default.levels), help="compressions (raw c23 c40)"
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs=3,
        default=default.shares,
        metavar=("TRAIN", "VAL", "TEST"),
        help="of the identities (0.6 0.2 0.2)",
    )
    parser.add_argument(
        "--strength", type=float, default=default.strength, help="of the traces, up to 3 (1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="one seed, one set (0)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = this one (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_make_face_videos(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    try:
        settings = FaceVideoSettings(
            seed=options.seed,
            clips=options.clips,
            frames=options.frames,
            size=options.size,
            methods=tuple(options.methods),
            unseen_methods=tuple(options.unseen_methods),
            levels=tuple(options.levels),
            shares=tuple(options.shares),
            strength=options.strength,
        )
        people = open_people(options.source, options.identities, settings)
        report = make_face_videos(
            options.output,
            people,
            settings,
            workers=options.workers,
            progress="" if options.quiet else "clips",
        )
    except (ValueError, OSError) as error:
        return stop(options, error, EXIT_BAD_ARGUMENTS)
    for clip, fault in report.faults:
        print(f"skipped {clip}: {fault}", file=sys.stderr)
    print(
        f"{options.output / MANIFEST}: {report.rows} crops, {report.reused} clips found finished, "
        f"{len(report.faults)} skipped"
    )
    return EXIT_SKIPPED if report.faults else 0

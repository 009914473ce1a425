"""Options of videos, and what they mean to the run."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comics.inference.verdict import VideoRule
    from comics.runs.video import VideoOptions


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames are looked at."""
    group = parser.add_argument_group("videos")
    group.add_argument(
        "--stride",
        type=int,
        default=1,
        metavar="N",
        help="analyse every N-th frame of a video; frames between show its faces (default: 1)",
    )
    group.add_argument(
        "--max-fps",
        type=float,
        metavar="F",
        help="analyse at most F frames per second of the video (default: no limit)",
    )
    group.add_argument(
        "--start",
        type=parse_time,
        default=0.0,
        metavar="TIME",
        help="pass over what comes before: seconds, mm:ss or hh:mm:ss (default: 0)",
    )
    group.add_argument(
        "--end",
        type=parse_time,
        metavar="TIME",
        help="pass over what comes from there on (default: the video's end)",
    )


def parse_time(text: str) -> float:
    """Seconds from "90", "90.5", "1:30" or "0:01:30.5".

    Raises:
        argparse.ArgumentTypeError: for anything else, and for minutes or seconds above 59 after a
            colon.
    """
    if not re.fullmatch(r"(\d+:[0-5]?\d:[0-5]?\d|\d+:[0-5]?\d|\d+)(\.\d*)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give seconds, mm:ss or hh:mm:ss")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def video_options(options: argparse.Namespace, rule: VideoRule) -> VideoOptions:
    """``VideoOptions`` from the parsed options.

    Args:
        options: with what ``add_selection_arguments`` declares.
        rule: ``VideoRule`` of the predictor.

    Raises:
        ValueError: for a number out of its range.
    """
    from comics.runs.video import VideoOptions

    return VideoOptions(
        stride=options.stride,
        max_fps=options.max_fps,
        start_s=options.start,
        end_s=options.end,
        rule=rule,
    )

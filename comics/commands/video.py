"""``comics video``: ``comics detect`` for videos and live sources alone."""

from __future__ import annotations

import argparse

from comics.commands.processing import process_inputs
from comics.commands.run_arguments import (
    add_input_arguments,
    add_model_arguments,
    add_output_arguments,
    add_speed_arguments,
)
from comics.commands.video_arguments import add_selection_arguments

DESCRIPTION = """\
Follow the faces through videos and live sources, and say which are forged.

INPUT is a video, a GIF or WebP animation, a folder (searched with its subfolders; pictures are
passed over), a pattern such as "clips/*.mp4", or a live source: webcam:0, rtsp://host/stream. A
live source runs until it ends, --end is reached, or Ctrl-C; what came until then counts.
The output folder gets what "comics detect" writes, of videos:

  videos/<name>.json          each face's track: when and where it was seen, P(fake) of its frames,
                              and of the whole track; of the video, that of its most forged track
  videos/<name>.timeline.svg  P(fake) over time, a line per track
  media/<name>.mp4            the video with its sound; each face has the number of its track and
                              its track's verdict (of a live source: so far)
  results.json, results.csv   every face of every analysed frame; files.csv: a line per video

One frame may err. So a track's P(fake) is the trimmed mean of its frames', weighted by how sure it
is that there is a face, and only tracks of TEST.VIDEO.MIN_FRAMES analysed frames speak for their
video; the rule that was used is in each file.

With --start and --end only that part is decoded and written, with its sound; the annotated video
then starts at 0, while the results keep the times of the source. "frame" counts from --start on.
"""
EPILOG = """\
Exit code: 0 all inputs read; 2 unusable arguments; 3 some inputs failed or ended early (each is
reported with its reason, the others are processed); 1 the outputs cannot be written; 130 or 143
stopped by Ctrl-C or SIGTERM, with the results of what is finished.

Examples:
  {prog} --weights model.safetensors --output out clip.mp4
  {prog} --weights model.safetensors --output out --max-fps 5 --start 1:30 --end 2:00 clip.mp4
  {prog} --weights model.safetensors --output out --end 60 webcam:0
"""


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says; those of videos come first."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    add_selection_arguments(parser)
    add_input_arguments(parser)
    add_output_arguments(parser)
    add_model_arguments(parser)
    add_speed_arguments(parser)


def run_video(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return process_inputs(options, videos_only=True)

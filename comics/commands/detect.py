"""``comics detect``: find the faces in pictures and videos, and say which are forged."""

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
Find the faces in pictures and videos, and say which are forged.

INPUT is a picture, a video, a GIF or WebP animation, a folder (searched with its subfolders), a
pattern such as "photos/**/*.jpg" (quote it, or let the shell expand it), or a live source:
webcam:0, rtsp://host/stream. --list names a file of paths, - reads them from the standard input.
The output folder gets

  results.json  every face: COCO box and mask, score (that it is a face), fake_probability; what
                became of every file; the model's name and SHA-256, thresholds and calibration
                each file's SHA-256, type, EXIF and Content Credentials (C2PA; --trust-list), and
                when and by which command the run was made
  results.csv   a line per face; files.csv: a line per input file
  media/        the inputs with boxes, masks and labels: blue and solid is real, orange and dashed
                is forged, the percentage says how probable the label is; videos keep their sound;
                with --heat-maps also <picture>.heat.jpg: where the face method sees forgery (of a
                face called real: where it is least sure); <video>.<frame>.heat.jpg of the frame
                that is shown for a person: the one in which the face looks most forged
  videos/       of each video its tracks and their P(fake) over time
  crops/        with --crops: a picture of every face
  report.html   all of it as a page, also to print: a page for each face, with its crop, mask and
                heat map, and, with --stability, how P(fake) changes when the picture is saved again
                or shrunk (a picture with faces then takes four times as long; of a video only the
                frames that are shown)

A run that was stopped (Ctrl-C, SIGTERM, power cut) continues when the same command is given again:
what is finished is not done twice. Failed files are tried again.

With --face-weights, or a model file of tools/combine_weights.py, a face method looks again at every
face that the detector finds. MODEL.FACE.FUSION of its configuration says how the two P(fake)
become one: "mean_logit" (their logits' mean), "face" or "detector" (that one alone), "max".

"No face found" is told apart from "no forgery found" (among the faces that were found). A face is
unclear where the model should not be relied on: P(fake) near the threshold, a small face, strong
compression, or a picture unlike those it was trained on. A score is the model's estimate and is
no proof: it says how much a face looks like the forgeries that the model was trained on.
"""
EPILOG = """\
Exit code: 0 all inputs read; 2 unusable arguments; 3 some inputs failed or ended early (each is
reported with its reason, the others are processed); 1 the outputs cannot be written; 130 or 143
stopped by Ctrl-C or SIGTERM, with the results of what is finished.

Examples:
  {prog} --weights model.safetensors --output out photo.jpg
  {prog} --weights model.safetensors --output out --stride 5 folder clip.mp4
  {prog} --weights detector.safetensors --face-weights dcl.safetensors --heat-maps \\
      --output out photo.jpg
  find archive -name '*.jpg' -print0 | {prog} --weights model.safetensors --output out -
  {prog} --weights model.safetensors --output out-2 --shard 2/8 archive/
"""


def add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    add_input_arguments(parser)
    add_output_arguments(parser)
    add_model_arguments(parser)
    add_selection_arguments(parser)
    add_speed_arguments(parser)


def run_detect(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return process_inputs(options)

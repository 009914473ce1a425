"""``comics annotations``: a run's faces for the programs in which people correct them."""

from __future__ import annotations

import argparse
from pathlib import Path

from comics.commands.stopping import stop

DESCRIPTION = """\
Write the faces that "comics detect" found on pictures as a COCO annotation file, to look at them
and to correct them elsewhere:

  CVAT          Upload annotations, COCO 1.0; score, P(fake) and verdict come as attributes
  Label Studio  label-studio-converter import coco -i annotations.json -o tasks.json (it comes with
                the package label-studio-sdk), then import tasks.json
  FiftyOne      fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.COCODetectionDataset,
                data_path="photos", labels_path="annotations.json")

Boxes are in pixels of the upright picture, masks are polygons, categories are 1 (real) and 2
(fake). Names of pictures are below the deepest folder that holds them all. Frames of videos are
left out, and counted: they are no files.
"""
EPILOG = """\
Exit code: 0 written; 1 the file cannot be written; 2 no run in that folder, or one that this
version cannot read.

Example:
  {prog} out --output annotations.json
"""
EXIT_OK, EXIT_OUTPUT, EXIT_ARGUMENTS = 0, 1, 2


def add_annotations_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of a run")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: annotations.json in that folder)"
    )


def run_annotations(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from comics.runs.annotations import write_annotations
    from comics.runs.results_reader import ResultsError

    path = options.output or options.folder / "annotations.json"
    try:
        written = write_annotations(options.folder, path)
    except ResultsError as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except OSError as error:
        return stop(options, f"{path} cannot be written: {error}", EXIT_OUTPUT)
    print(f"{path}: {written.faces} faces on {written.pictures} pictures")
    if written.faces_of_videos:
        print(f"{written.faces_of_videos} faces on frames of videos are left out")
    return EXIT_OK

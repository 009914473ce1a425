"""``comics make-dataset``: a multi-face set of real and forged faces, in four splits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comics.commands.stopping import stop
from comics.data.faces.manifest import split_entry
from comics.data.faces.manifest_files import read_manifest
from comics.data.forgery import DEFAULT_METHODS, METHODS
from comics.data.forgery.donors import (
    DonorFile,
    GeneratedDonors,
    donor_files,
    fit_pose,
    listed_donors,
)
from comics.data.forgery.networks import FaceNetwork
from comics.data.generate import (
    DONOR_SPLITS,
    RECORDS,
    Materials,
    Settings,
    Source,
    generate_dataset,
)
from comics.data.generate_sources import DEFAULT_RATIO, SPLITS, PhotoSource, SyntheticSource

DESCRIPTION = "Make a multi-face set of real and forged faces, in COCO's format, with four splits."
EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3
SYNTHETIC_SIZE = 320  # long side of drawn scenes, pixels
POSE_FACES = 800  # of the photos, from which the pose of generated faces is learned
NETWORK_CACHE = "network"  # folder of a network's results, below the set's records

EPILOG = """
Examples:
  scenes drawn here, no photo needed:
    {prog} --output datasets/quick --train 600 --val 80
  your own photos of real people (COCO file with boxes), half of the faces forged:
    {prog} --source photos/annotations.json --output datasets/mine
  generated faces put into your photos, and faces redrawn by an autoencoder:
    {prog} --source photos/annotations.json --output datasets/today \\
      --methods generated_swap neural_trace neural_mix --donors stylegan/ \\
      --network encoder.onnx decoder.onnx

A run that was interrupted continues when the same command is given again.
Exit code: 0 done; 2 wrong arguments; 3 done, but photos that could not be used were skipped.
"""


def add_make_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the set to")
    parser.add_argument(
        "--source",
        default="synthetic",
        help='"synthetic" draws scenes (default); a COCO file, or a folder with annotations.json, '
        "takes the real photos listed there (faces only real; bbox_uniform, keypoints5, identity "
        "and iscrowd are used where given)",
    )
    for split in SPLITS:
        parser.add_argument(
            f"--{split.replace('_', '-')}",
            type=int,
            metavar="N",
            help=f"images in {split}.json (default: every photo; drawn: a few hundred)",
        )
    parser.add_argument("--seed", type=int, default=0, help="one seed, one set (default 0)")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes; the set does not depend on it (default 2)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help=f"long side in pixels: of drawn scenes (default {SYNTHETIC_SIZE}), or the most for "
        "photos (default: as they are)",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        nargs=len(SPLITS),
        default=DEFAULT_RATIO,
        metavar=("TRAIN", "VAL", "DEV", "CHALLENGE"),
        help="shares of photos per split, by a hash of person or file (0.7 0.1 0.1 0.1)",
    )
    parser.add_argument(
        "--corrupt-train",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the images of train, corrupted like those of test_challenge (default 0)",
    )
    parser.add_argument(
        "--viewer",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the images of all splits, cut, scaled and compressed one to three times more, as "
        "on the way to a viewer: JPEG, WebP, H.264, screenshot, GIF (default 0)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_forgery_options(parser.add_argument_group("forgery"))


def _add_forgery_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--fake-share", type=float, default=0.5, help="probability that a face is forged (0.5)"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="of the traces: below 1 harder to find, above 1 plainer, at most 3 (default 1)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(DEFAULT_METHODS),
        metavar="NAME",
        help=f"ways to forge of {', '.join(METHODS)} (default: the first {len(DEFAULT_METHODS)})",
    )
    parser.add_argument(
        "--unseen-methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ways kept out of train and val, so that the test splits measure generalisation",
    )
    parser.add_argument(
        "--donors",
        metavar="FOLDER",
        help="of generated faces, aligned as FFHQ's, for generated_swap; or a manifest of them "
        "(faces.csv, faces.csv@method=StyleGAN) whose split is kept: a donor of train is put into "
        "photos of train alone. Without a split a hash of the file's name gives one",
    )
    parser.add_argument(
        "--network",
        nargs="+",
        type=Path,
        metavar="ONNX",
        help="one network from image to image, or an encoder and a decoder, for neural_trace and "
        "neural_mix",
    )
    parser.add_argument(
        "--network-range",
        nargs=2,
        type=float,
        default=(0.0, 1.0),
        metavar=("BLACK", "WHITE"),
        help="values of black and white in the network's images (0 1)",
    )
    parser.add_argument(
        "--network-cache",
        type=Path,
        help="folder that keeps what the network drew (default: with the set's records)",
    )


def _donors(options: argparse.Namespace, source: Source) -> GeneratedDonors | None:
    """The donors of --donors; faults of single files go to stderr."""
    if options.donors is None:
        return None
    named = split_entry(options.donors)
    if named is None:
        files = [DonorFile(path) for path in donor_files(Path(options.donors))]
    else:
        files = listed_donors(read_manifest(named[0]).select(named[1]), DONOR_SPLITS)
    pose = None
    if isinstance(source, PhotoSource):
        pose = fit_pose(source.known_poses(POSE_FACES))
    donors = GeneratedDonors(files, dict(zip(SPLITS, options.ratio, strict=True)), pose)
    for path, reason in donors.skipped:
        print(f"donor passed over: {path}: {reason}", file=sys.stderr)
    return donors


def _network(options: argparse.Namespace) -> FaceNetwork | None:
    if options.network is None:
        return None
    cache = options.network_cache or options.output / RECORDS / NETWORK_CACHE
    return FaceNetwork(options.network, value_range=tuple(options.network_range), cache=cache)


def run_make_dataset(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    counts = {split: getattr(options, split) for split in SPLITS}
    try:
        source: Source
        if options.source == "synthetic":
            source = SyntheticSource(SYNTHETIC_SIZE if options.size is None else options.size)
        else:
            source = PhotoSource(Path(options.source), options.size or 0, tuple(options.ratio))
        settings = Settings(
            seed=options.seed,
            fake_share=options.fake_share,
            methods=tuple(options.methods),
            unseen_methods=tuple(options.unseen_methods),
            strength=options.strength,
            corrupt_train=options.corrupt_train,
            viewer=options.viewer,
        )
        report = generate_dataset(
            options.output,
            source,
            settings,
            counts,
            options.workers,
            not options.quiet,
            Materials(_donors(options, source), _network(options)),
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        return stop(options, error, EXIT_BAD_ARGUMENTS)
    for photo, reason in report.skipped:
        print(f"skipped {photo}: {reason}", file=sys.stderr)
    print(
        f"{options.output}: {report.written} images written, {report.reused} found finished, "
        f"{len(report.skipped)} skipped"
    )
    return EXIT_SKIPPED if report.skipped else 0

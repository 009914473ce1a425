"""``comics mask-codes``: the basis of MEInst's mask codes, from a training set's masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comics.commands.stopping import stop

DESCRIPTION = """\
Compute the basis of MEInst's mask codes from the masks of a training set.

MEInst describes a face's mask, cropped with its box to 28 x 28 cells, by 60 numbers: coefficients
of the masks' principal components. This tool computes those components by incremental PCA. No image
is opened, only masks are drawn. Train with the result:

  tools/train_net.py --config-file configs/MEInst/R_50_1x.yaml \\
      MODEL.MEInst.PATH_COMPONENTS weights/mask_codes.npz

SET is a name (openforensics_train, ...), an annotation file in COCO format, or FILE.json@FOLDER.
Take training sets only. Faces without a mask are left out and listed; crowd regions are no faces.
A model file carries its basis: the .npz file is needed for training, not for inference.
--dim, --size and --no-sigmoid must be what MODEL.MEInst.DIM_MASK, MASK_SIZE and SIGMOID say.
"""
EXIT_DONE, EXIT_UNUSABLE, EXIT_SKIPPED = 0, 2, 3
SHOWN = 20  # lines on faces that were left out

EPILOG = """
Exit code: 0 done; 2 wrong arguments, no usable set, or too few masks: nothing is written;
3 done, but a set or faces were left out.

Examples:
  {prog} openforensics_train --output weights/mask_codes.npz
  {prog} datasets/quick/train.json --dim 40 --output quick.npz
"""


def add_mask_codes_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("sets", nargs="+", metavar="SET", help="name, FILE.json, FILE.json@FOLDER")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.npz", help="file to write"
    )
    parser.add_argument(
        "--dim", type=int, default=60, metavar="D", help="coefficients of a code (default 60)"
    )
    parser.add_argument(
        "--size", type=int, default=28, metavar="M", help="side of the masks, cells (default 28)"
    )
    parser.add_argument(
        "--no-sigmoid",
        action="store_true",
        help="components of the masks themselves, not of their logits",
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where named sets are (default: $COMICS_DATASETS, else DATASETS.ROOT: datasets)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random part of the logits (default 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def load_sets(args: argparse.Namespace) -> tuple[list, list[str]]:
    """The records of all sets that can be read, and what is wrong with the others."""
    from comics.config import get_cfg
    from comics.data.catalog import datasets_root, load_dataset
    from comics.data.records import DatasetError

    root = Path(args.root) if args.root else datasets_root(get_cfg())
    records, faults = [], []
    for entry in args.sets:
        try:
            records += load_dataset(entry, root)
        except (DatasetError, KeyError) as error:
            faults.append(f"{entry}: {error.args[0]}")
    return records, faults


def run_mask_codes(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from tqdm import tqdm

    from comics.engine.mask_codes import MaskCodeFit, face_masks, write_mask_codes

    sigmoid = not options.no_sigmoid
    left_out: list[str] = []
    try:
        fit = MaskCodeFit(options.dim, options.size, sigmoid=sigmoid, seed=options.seed)
        records, faults = load_sets(options)
        for fault in faults:
            print(f"left out: {fault}", file=sys.stderr)
        hidden = options.quiet or not sys.stderr.isatty()
        for record in tqdm(records, desc="masks", unit="image", disable=hidden):
            found = face_masks(record, options.size)
            fit.add(found.crops)
            left_out += found.left_out
        print_left_out(left_out)
        codes = fit.finish()
        write_mask_codes(options.output, codes, sigmoid=sigmoid)
    except (ValueError, OSError) as error:
        return stop(options, f"{error}; nothing was written", EXIT_UNUSABLE)
    print(
        f"{options.output}: {options.dim} components of {codes.faces} masks explain "
        f"{codes.ratios.sum():.1%} of their variance; decoded masks overlap the originals by "
        f"{codes.iou:.4f} IoU (without a file: {codes.cosine_iou:.4f})"
    )
    return EXIT_SKIPPED if faults or left_out else EXIT_DONE


def print_left_out(lines: list[str]) -> None:
    """The first faces that were left out, and how many more there are."""
    for line in lines[:SHOWN]:
        print(f"left out: {line}", file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"left out: {len(lines) - SHOWN} faces more", file=sys.stderr)

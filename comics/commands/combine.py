"""``comics combine``: a detector's and a face method's model files as one."""

from __future__ import annotations

import argparse

from comics.commands.stopping import stop

DESCRIPTION = """\
Join a detector's model file and a face method's into one: MODEL.META_ARCHITECTURE FaceForensics.

The output holds both configurations, weights, calibration temperatures and origins (SHA-256 of each
file), and is used like any model file: tools/infer.py --weights, tools/evaluate.py --weights.

Exit code: 0 done; 2 a file is absent, broken or of another kind; 1 the output cannot be written.

Example:
  {prog} --detector comics.safetensors --face dcl.safetensors \\
      --output forensics.safetensors
"""
EXIT_OUTPUT, EXIT_ARGUMENTS = 1, 2


def add_combine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.add_argument("--detector", required=True, metavar="FILE", help="a detector")
    parser.add_argument("--face", required=True, metavar="FILE", help="a face method")
    parser.add_argument("--output", required=True, metavar="FILE", help=".safetensors to write")
    parser.add_argument(
        "--fusion",
        choices=("mean_logit", "face", "detector", "max"),
        help="how the two P(fake) become one (default: the face method's MODEL.FACE.FUSION)",
    )
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="look at each face's mirror image too (default: the face method's MODEL.FACE.MIRROR)",
    )
    parser.add_argument(
        "--half", action="store_true", help="store filters as float16: half the size (used as 32)"
    )


def run_combine(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from safetensors import SafetensorError

    from comics.modeling.weights import halve_filters, save_weights
    from comics.pipeline import build_combination, combine_files

    try:
        pair = combine_files(options.detector, options.face, options.fusion, options.mirror)
        build_combination(pair)  # a file that no model can be built from is not written
        state = halve_filters(pair.state) if options.half else pair.state
    except (OSError, KeyError, ValueError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    try:
        save_weights(options.output, state, pair.cfg, pair.metadata)
    except (OSError, SafetensorError) as error:
        return stop(options, f"{options.output} cannot be written: {error}", EXIT_OUTPUT)
    print(f"{options.output}: {pair.metadata['detector_model']} + {pair.metadata['face_model']}")
    return 0

"""``comics compare``: a picture beside the original that it may have been made from."""

from __future__ import annotations

import argparse
from pathlib import Path

from comics.commands.stopping import stop

DESCRIPTION = """\
Compare a picture with an original: a page shows both side by side, the original laid over the
picture (cropped, scaled, turned and brightened copies are found again), and where they differ.

No model is needed. Whether the second file is the original, and the first one forged, is for people
to know: the comparison says that and where they differ, not which of them was changed. Where the
two do not show the same scene, it says that in words.
"""
EPILOG = """\
Exit code: 0 compared; 3 the two do not match; 2 a file that cannot be read; 1 the page cannot be
written.

Example:
  {prog} suspicious.jpg original.jpg --output comparison.html
"""
EXIT_OK, EXIT_OUTPUT, EXIT_ARGUMENTS, EXIT_NO_MATCH = 0, 1, 2, 3


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="the one in doubt")
    parser.add_argument("original", type=Path, metavar="ORIGINAL", help="what it is compared with")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        metavar="FILE",
        help="page to be written (default: %(default)s)",
    )


def run_compare(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from comics.data.images import ImageError
    from comics.pages.comparison import write_comparison

    try:
        found = write_comparison(options.output, options.picture, options.original)
    except ImageError as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except OSError as error:
        return stop(options, f"the page cannot be written: {error}", EXIT_OUTPUT)
    print(found.sentence())
    print(f"Comparison: {options.output}")
    return EXIT_OK if found.matches else EXIT_NO_MATCH

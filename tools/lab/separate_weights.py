#!/usr/bin/env python
"""Take one part out of a joined model file: the detector or the face method, as its own model file.

The face method can be trained on from there (MODEL.WEIGHTS), and joined with the detector again by
`comics combine`. Filters that were stored as float16 are float32 in the output.

Exit code: 0 done; 2 the file is absent, broken or not a joined one; 1 the output cannot be written.

Example:
  tools/lab/separate_weights.py comics/weights/default.safetensors --part face \\
      --output face.safetensors
"""

from __future__ import annotations

import argparse
import sys

EXIT_OUTPUT, EXIT_ARGUMENTS = 1, 2


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="FILE", help="a joined model file")
    parser.add_argument("--part", choices=("detector", "face"), required=True)
    parser.add_argument("--output", required=True, metavar="FILE", help=".safetensors to write")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from safetensors import SafetensorError

    from comics.modeling.weights import save_weights
    from comics.pipeline import separate_file

    try:
        part = separate_file(options.weights, options.part)
    except (OSError, ValueError) as error:
        print(f"separate_weights.py: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    try:
        save_weights(options.output, part.state, part.cfg, part.metadata)
    except (OSError, SafetensorError) as error:
        print(f"separate_weights.py: {options.output} cannot be written: {error}", file=sys.stderr)
        return EXIT_OUTPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""``comics detect`` of a checkout: find the faces in pictures and videos, say which are forged."""

from __future__ import annotations

import argparse
import sys

from comics.commands.detect import add_detect_arguments, run_detect


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/infer.py")
    add_detect_arguments(parser)
    return run_detect(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())

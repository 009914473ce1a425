#!/usr/bin/env python
"""``comics manifest`` of a checkout: a manifest out of folders of real and of forged faces."""

from __future__ import annotations

import argparse
import sys

from comics.commands.manifest import add_manifest_arguments, run_manifest


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/make_manifest.py")
    add_manifest_arguments(parser)
    return run_manifest(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())

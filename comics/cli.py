"""The command ``comics``: its subcommands are the modules of ``comics.commands``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import comics

DESCRIPTION = """\
Give it a photo or a video with many people in it: it finds every face, says which ones are forged,
and shows where. "comics COMMAND --help" explains each command.
"""
EXIT_INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
COMMANDS = ("detect", "video", "report", "serve", "manifest")


def build_parser() -> argparse.ArgumentParser:
    """The command line: each module ``comics.commands.<name>`` adds its own part.

    A module has ``SUMMARY``, a line; ``add_<name>_arguments(parser)``; and
    ``run_<name>(options)``, which returns the exit code.
    """
    parser = argparse.ArgumentParser(
        prog="comics",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"comics {comics.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name in COMMANDS:
        module = importlib.import_module(f"comics.commands.{name}")
        subparser = subparsers.add_parser(name, help=module.SUMMARY)
        getattr(module, f"add_{name}_arguments")(subparser)
        subparser.set_defaults(run=getattr(module, f"run_{name}"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:  # before the command itself takes care of it: nothing is begun
        print(f"comics {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

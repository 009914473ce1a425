"""The command ``comics``: its subcommands are the modules of ``comics.commands``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence

import comics
from comics.inference.files import display_name

DESCRIPTION = """\
Give it a photo or a video with many people in it: it finds every face, says which ones are forged,
and shows where. "comics COMMAND --help" explains each command.
"""
EXIT_INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
# Summaries are here and not in the modules, so that listing the commands imports none of them
COMMANDS = {
    "detect": "find the faces in pictures and videos, and say which are forged",
    "video": "follow the faces through videos, and say which are forged",
    "scale": "the same for millions of files on many machines: Ray, object stores, Parquet",
    "report": "write report.html of a run: pictures, tables to sort and filter, timelines",
    "compare": "show a picture beside its original, and where they differ",
    "annotations": "a run's faces as COCO annotations, for CVAT, Label Studio and FiftyOne",
    "serve": "a web page where one drops a photo or short video, and its API",
    "train": "train a detector or a face method, or evaluate one",
    "evaluate": "measure results or a model: AP, oLRP, AUC, calibration, robustness",
    "check": "list every fault of a data set, and what gives its labels away",
    "make-dataset": "forge photos: a set of real and forged faces in COCO's format",
    "make-face-videos": "forge clips of single faces at several compressions",
    "manifest": "make a manifest of face pictures out of folders of real and of forged ones",
    "convert": "make a model file of weights from elsewhere",
    "export": "make ONNX files of a model file",
    "combine": "join a detector's and a face method's model files into one",
    "cluster-faces": "number the content clusters of a manifest's faces, for GuideSpace",
    "mask-codes": "compute the basis of MEInst's mask codes",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line, with the options of one command.

    A module ``comics.commands.<name>`` has ``add_<name>_arguments(parser)`` and
    ``run_<name>(options)``, which returns the exit code.

    Args:
        command: the one whose options are declared, of ``COMMANDS``; None: of none.
    """
    parser = argparse.ArgumentParser(
        prog="comics",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"comics {comics.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if name == command:
            _declare(name, subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``comics`` with these words, by default those of the command line; the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    named = next((word for word in words if word in COMMANDS), None)
    return _run(build_parser(named), words)


def run_command(name: str, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command under another name, as the files in ``tools/`` do; the exit code.

    Args:
        name: of ``COMMANDS``.
        program: what usage and messages call it.
        arguments: its words; None: those of the command line.
    """
    parser = argparse.ArgumentParser(prog=program)
    _declare(name, parser)
    return _run(parser, sys.argv[1:] if arguments is None else list(arguments))


def _declare(name: str, parser: argparse.ArgumentParser) -> None:
    """Add a command's options to a parser of its own."""
    own = name.replace("-", "_")
    module = importlib.import_module(f"comics.commands.{own}")
    getattr(module, f"add_{own}_arguments")(parser)
    parser.set_defaults(run=getattr(module, f"run_{own}"), program=parser.prog)


def _run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    with _hinting_at_files(words):
        options, rest = parser.parse_known_args(words)
    # argparse gives positional words that follow options to nobody; here they are KEY VALUE pairs
    if rest and (not hasattr(options, "overrides") or rest[0].startswith("-")):
        with _hinting_at_files(words):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    options.command_line = [parser.prog, *words]
    try:
        return options.run(options)
    except KeyboardInterrupt:  # before the command itself takes care of it: nothing is begun
        print(f"{options.program}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def _hinting_at_files(words: Sequence[str]) -> Iterator[None]:
    """Where words cannot be parsed, say so of a file whose name looks like an option.

    A shell makes such a word of "*.png" where there is a file "-1.png".
    """
    try:
        yield
    except SystemExit as end:
        files = [word for word in words if word.startswith("-") and _is_file(word)]
        if end.code and files:
            print(
                f"{display_name(files[0])} is a file, but its name looks like an option: write "
                f"{display_name('./' + files[0])} (or ./* for all files here)",
                file=sys.stderr,
            )
        raise


def _is_file(word: str) -> bool:
    try:
        return len(word) > 1 and os.path.lexists(word)
    except ValueError:  # a NUL in it
        return False


if __name__ == "__main__":
    sys.exit(main())

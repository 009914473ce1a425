"""``comics manifest``: a manifest out of folders of real and of forged faces."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.data.faces.folders import FolderRows, SplitShares

DESCRIPTION = """\
List the face pictures below folders of real and of forged ones in a manifest: the CSV file that
face methods train and are tested on (DATASETS.TRAIN, VAL, TEST). Every picture is read whole; one
that cannot be read is named and left out. A picture is taken as the crop of one face.

Pictures of one person, clip or original must not be trained on and tested on: --group-pattern says
which belong together, by their path below the folder. Splits are made of whole groups, through a
hash of the group's name. Without a pattern a group is all pictures of one name, in any folder.
"""
EPILOG = """\
Exit code: 0 done; 2 unusable arguments or folders: one label only, an empty folder, the same
picture in a real and a forged folder, a pattern that matches nothing; 3 done, but pictures that
cannot be read were left out.

Examples:
  {prog} --real photos/real --fake photos/swapped photos/generated
  {prog} --real real --fake fake --group-pattern "id(\\d+)" --split 70,15,15 --output faces.csv
  {prog} --real real --fake fake --split test --set camera_trap
"""
EXIT_OK, EXIT_ARGUMENTS, EXIT_SKIPPED = 0, 2, 3
SHOWN = 20  # files named of each kind


def add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    for name, text in (
        ("real", "folders of real faces"),
        ("fake", "folders of forged faces; a folder's name is the method of its forgeries"),
    ):
        parser.add_argument(
            f"--{name}",
            type=Path,
            nargs="+",
            action="extend",
            required=True,
            metavar="DIR",
            help=text,
        )
    parser.add_argument(
        "--output", type=Path, default=Path("manifest.csv"), metavar="FILE",
        help="the manifest; its paths are relative to its folder (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--group-pattern", metavar="REGEX",
        help="what pictures of one group share; of a regular expression with groups these, else "
        "the whole match",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="80,10,10", metavar="SHARES",
        help="percent of the groups for train,val,test; or train, val or test for all of them; or "
        "none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--set", default="", metavar="NAME", help="name of the set, where several are mixed"
    )
    parser.add_argument("--workers", type=int, default=2, help="threads that read (default: 2)")


def run_manifest(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from comics.data.faces.folders import LabelledFolder, folder_rows
    from comics.data.faces.manifest_files import write_manifest
    from comics.runs.inputs import IMAGE_EXTENSIONS
    from comics.structures import FAKE, REAL

    try:
        folders = [LabelledFolder(path, REAL) for path in options.real]
        folders += [LabelledFolder(path, FAKE, _method(path)) for path in options.fake]
        found = folder_rows(
            folders,
            IMAGE_EXTENSIONS,
            pattern=_pattern(options.group_pattern),
            shares=_shares(options.split),
            set_name=options.set,
            workers=options.workers,
        )
        write_manifest(options.output, _relative(found.rows, options.output.parent))
    except (ValueError, OSError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    _report(found, options)
    return EXIT_SKIPPED if found.unreadable else EXIT_OK


def _method(folder: Path) -> str:
    from comics.data.faces.manifest import REAL_METHOD

    name = folder.resolve().name
    return "fake" if name.lower() == REAL_METHOD else name


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise ValueError(f"--group-pattern {text!r} is no regular expression: {error}") from error


def _shares(text: str) -> SplitShares | None:
    from comics.data.faces.folders import SPLITS, SplitShares

    if text == "none":
        return None
    if text in SPLITS:
        return SplitShares(**{name: float(name == text) for name in SPLITS})
    try:
        train, val, test = (float(part) / 100 for part in text.split(","))
        return SplitShares(train, val, test)
    except ValueError:
        raise ValueError(
            f"--split {text!r}: three percentages that add up to 100, such as 80,10,10, or one of "
            f"{', '.join(SPLITS)}, none"
        ) from None


def _relative(rows: list[dict[str, str]], folder: Path) -> list[dict[str, str]]:
    return [row | {"path": Path(os.path.relpath(row["path"], folder)).as_posix()} for row in rows]


def _report(found: FolderRows, options: argparse.Namespace) -> None:
    from comics.data.faces.folders import lacking_splits

    _name("cannot be read, left out", [f"{path}: {why}" for path, why in found.unreadable])
    _name("the same content as another one, left out", found.repeated)
    _name("no picture, left out", found.others)
    _name("not matched by the pattern, a group of its own", found.unmatched)
    counts = Counter((row.get("split", ""), row["label"], row["method"]) for row in found.rows)
    for (split, label, method), count in sorted(counts.items()):
        print(f"{count:8d}  {split or '-'} / {label} / {method or '-'}")
    for lacking in lacking_splits(found.rows, _shares(options.split)):
        print(f"{options.program}: {lacking}", file=sys.stderr)
    groups = len({row["group"] for row in found.rows})
    print(f"{options.output}: {len(found.rows)} pictures in {groups} groups")
    if options.group_pattern is None and options.split != "none":
        print(
            f"{options.program}: no --group-pattern: pictures of one person or clip may be in "
            "several splits",
            file=sys.stderr,
        )


def _name(what: str, names: list[str]) -> None:
    for name in names[:SHOWN]:
        print(f"{what}: {name}", file=sys.stderr)
    if len(names) > SHOWN:
        print(f"{what}: and {len(names) - SHOWN} more", file=sys.stderr)

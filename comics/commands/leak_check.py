"""The leak check of a set of faces, for ``comics check``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comics.data.faces.manifest import Manifest

LIMIT, SAMPLE = 0.6, 4000
HELP = """\
Leaks: --leaks tries to tell real from forged faces by what says nothing of forgery: size, aspect
ratio, file format, colour mode, JPEG tables, chroma subsampling, metadata, bytes per pixel, mean
luminance, black borders. A cross-validated AUC above the limit that chance does not explain is a
leak: a model would learn that property. Where rows name several sets (column set), each is looked
at, and all together. --equalise writes copies that are alike in size, coding and metadata.
"""


def add_leak_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--leaks`` and what belongs to it."""
    group = parser.add_argument_group("leaks")
    group.add_argument(
        "--leaks", action="store_true", help="can the label be told without a look at the faces?"
    )
    group.add_argument(
        "--leak-limit", type=float, default=LIMIT, metavar="AUC",
        help="warn above this (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--leak-sample", type=int, default=SAMPLE, metavar="N",
        help="faces of each set that are looked at; 0 = all (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--equalise", type=Path, metavar="FOLDER",
        help="write equalised copies of all faces and their manifest.csv there, and check these",
    )  # fmt: skip


def check_leaks(
    manifest: Manifest, name: str, options: argparse.Namespace, workers: int = 2
) -> tuple[int, dict]:
    """Print what tells the labels of ``manifest``, before and after ``--equalise``.

    Returns:
        How many leaks and unreadable files were found (of the copies, where they are made), and
        all of it for JSON.

    Raises:
        ValueError: if the copies cannot be made.
    """
    from comics.data.faces.manifest_files import read_manifest
    from comics.data.leaks.equalise import equalise

    count, report = 0, {}
    if options.leaks:
        count, report["leaks"] = _look(manifest, name, options, workers)
    if options.equalise is not None:
        done = equalise(manifest, options.equalise, workers=workers)
        for fault in done.faults:
            print(f"not copied: {fault}", file=sys.stderr)
        print(f"{done.manifest}: {done.count} equalised copies")
        count, report["equalised"] = _look(
            read_manifest(done.manifest), str(done.manifest), options, workers
        )
        count += len(done.faults)
    return count, report


def _look(
    manifest: Manifest, name: str, options: argparse.Namespace, workers: int
) -> tuple[int, list[dict]]:
    from dataclasses import asdict

    from comics.data.leaks.properties import measure_properties
    from comics.data.leaks.telling import find_leaks

    table = measure_properties(manifest, sample=options.leak_sample, workers=workers)
    for fault in table.unreadable:
        print(f"not looked at: {fault}", file=sys.stderr)
    parts = find_leaks(table, limit=options.leak_limit)
    leaks = []
    for part in parts:
        where = part.part or ("all sets" if len(parts) > 1 else name)
        print(f"leaks of {where}: {part.faces} faces in {part.groups} groups")
        if part.too_few:
            print(f"  not measured: {part.too_few}")
            continue
        print("        AUC   95 %       property")
        for telling in sorted(part.tellings, key=lambda telling: -telling.auc):
            print(f"  {telling}")
        leaks += [(where, telling) for telling in part.tellings if telling.leaks]
    for where, telling in leaks:
        print(
            f"warning: {where}: the label can be told from {telling.name} "
            f"(AUC {telling.auc:.2f}, {telling.low:.2f}-{telling.high:.2f}) [leak]"
        )
    return len(leaks) + len(table.unreadable), [asdict(part) for part in parts]

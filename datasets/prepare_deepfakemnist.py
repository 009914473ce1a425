"""DeepfakeMnist+: face crops and manifest."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from comics.data.preparation import VIDEO_SUFFIXES, Clip, ClipGroup
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

METHOD = "DeepfakeMnist+"
IDENTITY = re.compile(r"id\d{5}")  # of VoxCeleb, where the real videos come from
SPLITS = ("train", "val", "test")
KINDS = {"real": REAL, "fake": FAKE}


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per video below a folder called ``real...`` or ``fake...``, in any case.

    A folder called train, val or test gives the split, an id of VoxCeleb in the path the identity.
    """
    groups = []
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
        name = path.relative_to(root).as_posix()
        folders = [part.lower() for part in Path(name).parts[:-1]]
        labels = {KINDS[kind] for kind in KINDS for part in folders if part.startswith(kind)}
        if len(labels) != 1:
            raise ValueError(f"{path}: not below one folder called real or fake")
        (label,) = labels
        match = IDENTITY.search(name)
        person = match[0] if match else ""
        split = next((split for split in SPLITS if split in folders), options.split)
        clip = Clip(
            name, str(Path(name).with_suffix("")), label, method=METHOD if label == FAKE else "",
            source=person, target=person, split=split,
        )  # fmt: skip
        groups.append(ClipGroup(clip.video, (clip,)))
    return groups


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    parser = preparer_parser(__doc__)
    parser.add_argument("--split", default="train", help="of clips below no split's folder (train)")
    return run_preparer(parser, find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

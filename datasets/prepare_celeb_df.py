"""Celeb-DF, version 1 or 2: face crops and manifest."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from comics.data.preparation import Clip, ClipGroup, videos_in
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

TEST_LIST = "List_of_testing_videos.txt"
METHOD = "Celeb-DF"
REAL_NAME = re.compile(r"(id\d+)_(\d+)")
FAKE_NAME = re.compile(r"(id\d+)_(id\d+)_(\d+)")  # target, source, number of the target's video


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per real video, with the forgeries ``target_source_number.mp4`` made from it."""
    test = read_test_list(root / TEST_LIST)
    clips: dict[str, list[Clip]] = {}

    def add(group: str, path: Path, label: int, source: str, target: str) -> None:
        name = path.relative_to(root).as_posix()
        clips.setdefault(group, []).append(
            Clip(
                name, f"{path.parent.name}/{path.stem}", label, source=source, target=target,
                method=METHOD if label == FAKE else "", split="test" if name in test else "train",
            )
        )  # fmt: skip

    for path in videos_in(root / "Celeb-real"):
        match = REAL_NAME.fullmatch(path.stem)
        identity = match[1] if match else path.stem
        add(path.stem, path, REAL, identity, identity)
    for path in videos_in(root / "YouTube-real"):
        add(f"YouTube/{path.stem}", path, REAL, f"youtube{path.stem}", f"youtube{path.stem}")
    for path in videos_in(root / "Celeb-synthesis"):
        match = FAKE_NAME.fullmatch(path.stem)
        if match is None:
            raise ValueError(f"{path}: not named idA_idB_number")
        add(f"{match[1]}_{match[3]}", path, FAKE, match[2], match[1])
    return [ClipGroup(name, tuple(found)) for name, found in sorted(clips.items())]


def read_test_list(path: Path) -> set[str]:
    """Videos of the test list: lines of a label (1 real, 0 fake) and a path.

    Raises:
        ValueError: naming file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it says which videos are for testing")
    found = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        label, _, name = line.strip().partition(" ")
        forged = "synthesis" in name
        if label not in ("0", "1") or not name or (label == "0") != forged:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 1 (real) or 0 (fake) and path"
            )
        found.add(name.strip())
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    return run_preparer(preparer_parser(__doc__), find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

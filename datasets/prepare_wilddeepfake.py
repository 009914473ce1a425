"""WildDeepfake, as downloaded (archives) or unpacked (folders): manifest, sampled face pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path, PurePosixPath

from comics.data.preparation import Clip, ClipGroup
from comics.data.video_frames import ARCHIVE_SUFFIXES, INSIDE, is_picture_name, sequences_in
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

METHOD = "WildDeepfake"
PARTS = {
    (kind, split): (f"{kind}_{split}", f"{kind} {split}", f"{kind}-{split}")
    for kind in ("real", "fake")
    for split in ("train", "test")
}


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per face sequence: a folder of pictures, unpacked or in an archive."""
    groups = []
    for (kind, split), names in PARTS.items():
        for folder in (root / name for name in names):
            if not folder.is_dir():
                continue
            for path in face_sequences(folder):
                name = f"{kind}_{split}/{_inner(path, folder)}"
                groups.append(
                    ClipGroup(
                        name,
                        (
                            Clip(
                                str(PurePosixPath(path).relative_to(root.as_posix())), name,
                                REAL if kind == "real" else FAKE,
                                method=METHOD if kind == "fake" else "", split=split,
                            ),
                        ),
                    )
                )  # fmt: skip
    return groups


def face_sequences(folder: Path) -> list[str]:
    """Folders of pictures below ``folder``, and those inside of its archives."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.endswith(ARCHIVE_SUFFIXES):
            try:
                inside = sequences_in(path)
            except ValueError:
                inside = [""]  # reported and skipped when its turn comes
            found += [f"{path.as_posix()}{INSIDE}{name}" for name in inside]
        elif path.is_dir() and any(is_picture_name(p.name) for p in path.iterdir()):
            found.append(path.as_posix())
    return found


def _inner(path: str, folder: Path) -> str:
    name = path.removeprefix(f"{folder.as_posix()}/").replace(INSIDE, "/")
    for suffix in sorted(ARCHIVE_SUFFIXES, key=len, reverse=True):
        name = name.replace(f"{suffix}/", "/")
    return name.replace("/./", "/")


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    return run_preparer(preparer_parser(__doc__), find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

"""DFDC, the parts of the full set or the preview: face crops and manifest."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from comics.data.preparation import Clip, ClipGroup
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

METADATA = "metadata.json"
METHOD = "DFDC"  # the set does not say which of its methods made a video
LABELS = {"REAL": REAL, "FAKE": FAKE}


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per original of each ``metadata.json`` below the root.

    Raises:
        ValueError: if there is no such file, or one of another form.
    """
    files = sorted(root.rglob(METADATA))
    if not files:
        raise ValueError(f"{root}: no {METADATA} in it")
    clips: dict[str, list[Clip]] = {}
    for file in files:
        part = file.parent.relative_to(root).as_posix()
        for name, entry in read_metadata(file).items():
            original = entry.get("original") or name
            target = Path(original).stem
            clips.setdefault(f"{part}/{target}", []).append(
                Clip(
                    (file.parent / name).relative_to(root).as_posix(), f"{part}/{Path(name).stem}",
                    LABELS[entry["label"]], method=METHOD if entry["label"] == "FAKE" else "",
                    target=target, split=entry.get("split") or "train",
                )
            )  # fmt: skip
    return [
        ClipGroup(name, tuple(sorted(found, key=lambda c: (c.label, c.path))))
        for name, found in sorted(clips.items())
    ]


def read_metadata(path: Path) -> dict[str, dict]:
    """Entries by file name.

    Raises:
        ValueError: naming file and entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("label") not in LABELS:
            raise ValueError(f"{path}: {name}: the label is neither REAL nor FAKE")
    return entries


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    return run_preparer(preparer_parser(__doc__), find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

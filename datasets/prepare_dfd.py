"""DFD (Google's DeepFakeDetection, shipped with FaceForensics++): face crops and manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comics.data.preparation import Clip, ClipGroup, videos_in
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

METHOD = "DeepFakeDetection"
LEVELS = {"raw": ("raw", "c0"), "c23": ("c23",), "c40": ("c40",)}


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per original ``actor__scene.mp4`` with ``actor_source__scene__code.mp4``.

    The first actor of a forgery's name is taken as the target, the second as the source.
    """
    clips: dict[str, list[Clip]] = {}
    forged = root / "manipulated_sequences" / METHOD
    for level, folders in LEVELS.items():
        for folder in folders:
            for path in videos_in(root / "original_sequences/actors" / folder / "videos"):
                actor = path.stem.split("__")[0]
                clips.setdefault(path.stem, []).append(
                    Clip(
                        str(path.relative_to(root)), f"actors/{path.stem}", REAL, source=actor,
                        target=actor, compression=level, split=options.split,
                    )
                )  # fmt: skip
            for path in videos_in(forged / folder / "videos"):
                original, target, source = parse_name(path.stem)
                mask = forged / "masks/videos" / path.name
                clips.setdefault(original, []).append(
                    Clip(
                        str(path.relative_to(root)), f"{METHOD}/{path.stem}", FAKE, method=METHOD,
                        source=source, target=target, compression=level, split=options.split,
                        mask=str(mask.relative_to(root)) if mask.is_file() else "",
                    )
                )  # fmt: skip
    order = list(LEVELS)
    return [
        ClipGroup(
            name,
            tuple(sorted(found, key=lambda c: (c.label, order.index(c.compression), c.path))),
        )
        for name, found in sorted(clips.items())
    ]


def parse_name(stem: str) -> tuple[str, str, str]:
    """Original, target and source of ``01_02__exit_phone_room__YVGY8LOK``.

    Raises:
        ValueError: for a name of another form.
    """
    actors, _, scene = stem.partition("__")
    target, mark, source = actors.partition("_")
    if not mark or not scene:
        raise ValueError(f"{stem}: not named target_source__scene__code")
    return f"{target}__{scene.rpartition('__')[0] or scene}", target, source


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    parser = preparer_parser(__doc__)
    parser.add_argument("--split", default="test", help="of all clips: there is no official one")
    return run_preparer(parser, find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

"""FaceForensics++: face crops and manifest of all methods and compressions there are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from comics.data.preparation import Clip, ClipGroup, videos_in
from comics.inference.preparation import preparer_parser, run_preparer
from comics.structures import FAKE, REAL

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
# Levels, best first, and the folders that hold them; "c0" is what older downloads call raw
LEVELS = {"raw": ("raw", "c0"), "c23": ("c23",), "c40": ("c40",)}
SPLITS = ("train", "val", "test")


def find_groups(root: Path, options: argparse.Namespace) -> list[ClipGroup]:
    """One group per original: it, its forgeries ``target_source.mp4``, at every compression."""
    splits = read_splits(root if options.splits is None else options.splits)
    clips: dict[str, list[Clip]] = {}
    for level in options.levels:
        for folder in LEVELS[level]:
            for path in videos_in(root / "original_sequences/youtube" / folder / "videos"):
                name = path.stem
                clips.setdefault(name, []).append(
                    Clip(
                        str(path.relative_to(root)), f"youtube/{name}", REAL, source=name,
                        target=name, compression=level, split=splits.get(name, ""),
                    )
                )  # fmt: skip
            for method in options.methods:
                base = root / "manipulated_sequences" / method
                for path in videos_in(base / folder / "videos"):
                    target, _, source = path.stem.partition("_")
                    mask = base / "masks/videos" / path.name
                    clips.setdefault(target, []).append(
                        Clip(
                            str(path.relative_to(root)), f"{method}/{path.stem}", FAKE,
                            method=method, source=source, target=target, compression=level,
                            split=splits.get(target, ""),
                            mask=str(mask.relative_to(root)) if mask.is_file() else "",
                        )
                    )  # fmt: skip
    return [ClipGroup(name, _reference_first(found)) for name, found in sorted(clips.items())]


def _reference_first(clips: list[Clip]) -> tuple[Clip, ...]:
    """Faces are looked for in the best compression of the original."""
    order = list(LEVELS)
    return tuple(sorted(clips, key=lambda c: (c.label, order.index(c.compression), c.path)))


def read_splits(folder: Path) -> dict[str, str]:
    """Split of each original, from the official train.json, val.json, test.json: lists of pairs.

    Raises:
        ValueError: naming the file, if it is not such a list, or puts an id into two splits.
    """
    splits: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.is_file():
            continue
        pairs = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        ):
            raise ValueError(f"{path}: not a list of pairs of ids")
        for name in (str(name) for pair in pairs for name in pair):
            if splits.setdefault(name, split) != split:
                raise ValueError(f"{path}: {name} is in {splits[name]}.json too")
    return splits


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    parser = preparer_parser(__doc__)
    parser.add_argument("--splits", type=Path, help="folder of train.json, ... (default: root)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    return run_preparer(parser, find_groups, argv)


if __name__ == "__main__":
    sys.exit(main())

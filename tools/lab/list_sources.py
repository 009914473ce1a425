#!/usr/bin/env python
"""Lists of faces, one manifest per source of forgeries, for the last stages of the shipped model.

From what the preparers wrote, OUTPUT gets SOURCE_SPLIT.csv, such as dfdc_train.csv, for

own          faces of the project's own forgeries (--own: sets of tools/make_dataset.py made of the
             same photos with different seeds); group: the face, so that a forged one stands beside
             itself, real, of another seed
dfdc, stylegan, ffpp_c40, ...  each set of --forged, the manifest of datasets/prepare_forged.py
autoencoder  --pairs, the manifest of datasets/prepare_neural_pairs.py; the box is what its margin
             was added to
swap         --swaps, sets of tools/make_dataset.py with generated donors

and real_faces.csv, what prepare_neural_pairs.py may start from: real faces of --own's photos and as
many of each set of --forged but stylegan's, which are few.

A forged set gives at most --groups groups with a real face, of each the real one and --forged-each
forged ones (a clip's forgeries are alike, and a short training sees only some); test-only sets
whole. Lists of other splits than train are for measuring: val, test.

Exit code: 0 done; 2 unusable arguments or files.

Example:
  tools/lab/list_sources.py --own output/default/data/0 output/default/data/1 \\
      --forged datasets/forged/manifest.csv --output output/default/lists
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

EXIT_ARGUMENTS = 2
SPLITS = {"train": "train", "val": "val", "test_dev": "test"}  # file of make_dataset -> split
MIN_SIDE = 20  # pixels; in less, traces of a forgery are not to be seen
GROUPS, FORGED_EACH = 6000, 2
PAIR_MARGIN = 0.15  # of prepare_neural_pairs.py, on each side of a box
SHORT = {"dfdc224": "dfdc", "stylegan_140k": "stylegan"}
FEW = ("stylegan",)
Row = dict[str, object]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--own", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--forged", type=Path, metavar="FILE", help="manifest")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="manifest")
    parser.add_argument("--swaps", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--groups", type=int, default=GROUPS, metavar="N")
    parser.add_argument("--forged-each", type=int, default=FORGED_EACH, metavar="N")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        for name, rows in sorted(_lists(options).items()):
            _write(options.output / name, rows)
    except (OSError, KeyError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"list_sources.py: {message}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _lists(options: argparse.Namespace) -> dict[str, list[Row]]:
    """File name -> rows; paths absolute."""
    lists: dict[str, list[Row]] = defaultdict(list)
    for source, folders, by_face in (("own", options.own, True), ("swap", options.swaps, False)):
        for row in _photo_faces(folders, source, by_face):
            lists[f"{source}_{row['split']}.csv"].append(row)
    if options.forged is not None:
        by_list: dict[str, list[Row]] = defaultdict(list)
        for row in _manifest_rows(options.forged):
            row["set"] = SHORT.get(str(row["set"]), row["set"])
            by_list[f"{row['set']}_{row['split']}.csv"].append(row)
        lists |= {n: _some(rows, options.groups, options.forged_each)
                  for n, rows in by_list.items()}  # fmt: skip
    if options.pairs is not None:
        for row in map(_with_inner_box, _manifest_rows(options.pairs)):
            row |= {"set": "autoencoder", "group": str(row["video"]).partition("+")[0]}
            lists[f"autoencoder_{row['split']}.csv"].append(row)
    else:
        lists["real_faces.csv"] = _real_faces(lists)
    if not any(lists.values()):
        raise ValueError("there is nothing to list: name --own, --forged, --pairs or --swaps")
    return lists


def _photo_faces(folders: Sequence[Path], source: str, by_face: bool) -> Iterator[Row]:
    """Faces of sets of make_dataset; of val and test those of the first folder only."""
    for number, folder in enumerate(folders):
        for file, split in SPLITS.items():
            path = folder / f"{file}.json"
            if not path.is_file() or (number and split != "train"):
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
            names = {image["id"]: image["file_name"] for image in content["images"]}
            labels = {c["id"]: c["name"].lower() for c in content["categories"]}
            for face in content["annotations"]:
                x, y, width, height = face["bbox"]
                if face.get("iscrowd") or min(width, height) < MIN_SIDE:
                    continue
                name = names[face["image_id"]]
                yield {
                    "path": str((folder / name).resolve()), "split": split, "set": source,
                    "x0": x, "y0": y, "x1": x + width, "y1": y + height,
                    "label": labels[face["category_id"]], "method": face.get("method") or "real",
                    "group": f"{name}#{round(x)},{round(y)}" if by_face else name,
                }  # fmt: skip


def _manifest_rows(path: Path) -> Iterator[Row]:
    from comics.data.faces.manifest_files import read_manifest
    from comics.structures import CLASS_NAMES

    manifest = read_manifest(path)
    for index in range(len(manifest)):
        row = manifest[index]
        named = {c: manifest.name(index, c) for c in ("video", "method", "split", "set", "group")}
        box = {} if row.box is None else dict(zip(("x0", "y0", "x1", "y1"), row.box, strict=True))
        yield {**named, **box, "path": os.path.abspath(row.path), "label": CLASS_NAMES[row.label]}


def _some(rows: Sequence[Row], groups: int, forged_each: int) -> list[Row]:
    """The real face and some forged ones of some groups; all rows if there are no groups."""
    of_group: dict[str, dict[bool, list[Row]]] = defaultdict(lambda: {True: [], False: []})
    for row in rows:
        of_group[str(row["group"])][_is_real(row)].append(row)
    of_group.pop("", None)
    whole = [g for g, parts in of_group.items() if parts[True] and parts[False]]
    if not whole:
        return list(rows)
    rng = random.Random(0)
    chosen = []
    for group in rng.sample(sorted(whole), min(groups, len(whole))):
        real, forged = of_group[group][True], of_group[group][False]
        chosen += real[:1] + rng.sample(forged, min(forged_each, len(forged)))
    return chosen


def _with_inner_box(row: Row) -> Row:
    """With the box that a whole crop's margin was added to."""
    from comics.data.images import read_image_size

    height, width = read_image_size(str(row["path"]))[:2]
    side = min(height, width) / (1 + 2 * PAIR_MARGIN)
    x, y = (width - side) / 2, (height - side) / 2
    return {**row, "x0": x, "y0": y, "x1": x + side, "y1": y + side}


def _real_faces(lists: dict[str, list[Row]]) -> list[Row]:
    """Real faces of own photos, and as many of each larger forged set, per split."""
    rows = []
    for split in dict.fromkeys(SPLITS.values()):
        unique = {(r["path"], r["group"]): r for r in lists.get(f"own_{split}.csv", ())
                  if _is_real(r)}  # fmt: skip
        rows += unique.values()
        for name, others in sorted(lists.items()):
            source = name.removesuffix(f"_{split}.csv")
            if source != name and source not in ("own", "swap", *FEW):
                rows += [row for row in others if _is_real(row)][: len(unique)]
    return [{**row, "video": f"{row['set']}/{row['group']}", "method": "real"} for row in rows]


def _is_real(row: Row) -> bool:
    return str(row["label"]).lower() in ("real", "0")


def _write(path: Path, rows: Iterable[Row]) -> None:
    from comics.data.faces.manifest_files import write_manifest

    print(f"{path}: {write_manifest(path, rows)} faces")


if __name__ == "__main__":
    sys.exit(main())

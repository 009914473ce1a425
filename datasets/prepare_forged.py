"""Real forgeries of DFDC, StyleGAN and FaceForensics++ c40, as restored: a manifest and masks.

The root is the folder that ``restore.py`` of the collection wrote: ``index.csv`` and
``SET/LABEL/NAME``. Pictures stay where they are. Written are: manifest.csv, a rough mask of the
forged region of every forgery that lies on its original, and the face crops of clips.

Left out, and counted: forgeries that changed under ``--least-change`` of the pixels of their
original. Files that are missing or cannot be read are named.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from comics.data.faces.checks import shared_groups
from comics.data.faces.difference_masks import difference_mask
from comics.data.faces.manifest_files import read_manifest, write_manifest
from comics.data.images import read_image, read_image_size
from comics.data.jobs import claim_folder, run_jobs
from comics.data.preparation import MANIFEST, Clip, ClipGroup, CropSettings, FaceCutter
from comics.data.records import DatasetError
from comics.files import write_bytes
from comics.inference.default_weights import default_weights
from comics.inference.preparation import EXIT_BAD_ARGUMENTS, EXIT_SKIPPED, DetectorBoxes
from comics.structures import FAKE, REAL

INDEX = "index.csv"
COLUMNS = {"set", "file", "label", "method", "group", "split", "original", "changed_share"}
COLUMNS |= {"border_difference"}
CLIPS = "ffpp_c40"  # the set of clips, for testing only; the others are pictures
SCORE = 0.5  # least score of a face in a clip
PICTURES_PER_JOB = 500
SHOWN_FAULTS = 50
EXIT_CODES = "exit codes: 0 done; 2 wrong arguments or index; 3 done, but files were skipped."


def read_index(root: Path) -> list[dict[str, str]]:
    """The rows of ``root``/index.csv.

    Raises:
        DatasetError: if it is not there, has other columns or no row, or names a file that leads
            out of the root.
    """
    path = root / INDEX
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = sorted(COLUMNS - set(reader.fieldnames or ()))
            if missing:
                raise DatasetError(f"{path}: no column {', '.join(missing)}")
            rows = list(reader)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing: run restore.py of the collection first") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable CSV file: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: there are no rows")
    for number, row in enumerate(rows, 2):
        name = Path(row["file"] or "")
        if not row["file"] or name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{path}, line {number}: {row['file']!r} is no file below the root")
    return rows


def number(row: dict[str, str], column: str) -> float | None:
    """A measure of the index; None where it is empty (the original is not in the set).

    Raises:
        DatasetError: if it is no number.
    """
    try:
        return float(row[column]) if row[column] else None
    except ValueError:
        raise DatasetError(f"{row['file']}: {column} {row[column]!r} is no number") from None


def choose_rows(
    index: Sequence[dict[str, str]], sets: Sequence[str], least_change: float
) -> tuple[list[dict[str, str]], int]:
    """The rows of ``sets`` (none named: all), and how many forgeries were dropped as unchanged.

    Raises:
        DatasetError: for a set that is not in the index.
    """
    known = sorted({row["set"] for row in index})
    for name in sets:
        if name not in known:
            raise DatasetError(
                f"there is no set {name!r} in the index; there is {', '.join(known)}"
            )
    rows = [row for row in index if not sets or row["set"] in sets]
    changed = [row for row in rows if _is_changed(row, least_change)]
    return changed, len(rows) - len(changed)


def _is_changed(row: dict[str, str], least_change: float) -> bool:
    """False for a forgery that (nearly) shows its original."""
    changed = number(row, "changed_share")
    return row["label"] != "fake" or changed is None or changed >= least_change


@dataclass(frozen=True)
class PictureRows:
    """From rows of the index that are pictures to rows of the manifest; a job for ``run_jobs``.

    Attributes:
        root: the restored folder.
        output: the manifest's folder.
        most_border: largest mean difference along the border, grey levels, of a forgery that lies
            on its original.
    """

    root: Path
    output: Path
    most_border: float

    def __call__(self, job: Sequence[tuple[dict, str]]) -> tuple[list[dict], list[str]]:
        """Rows, and faults by file; ``job`` has rows of the index and their originals' files."""
        rows, faults = [], []
        for row, original in job:
            try:
                rows.append(self._row(row, original))
            except (ValueError, OSError) as error:
                faults.append(str(error))
        return rows, faults

    def _row(self, row: dict[str, str], original: str) -> dict[str, str]:
        fake = row["label"] == "fake"
        read_image_size(self.root / row["file"])
        border = number(row, "border_difference")
        aligned = fake and original and border is not None and border <= self.most_border
        return {
            "path": self.relative(row["file"]),
            "video": f"{row['set']}/{Path(row['file']).stem}" if row["group"] else "",
            "label": row["label"],
            "method": row["method"] if fake else "",
            "target": row["group"],
            "paired_real": self.relative(original) if aligned else "",
            "mask": self._mask(row["file"], original) if aligned else "",
            "split": row["split"],
            "set": row["set"],
            "group": row["group"],
        }

    def _mask(self, file: str, original: str) -> str:
        """Write the mask of a pair; its path from the output, "" where no difference is seen."""
        mask = difference_mask(read_image(self.root / file), _read_original(self.root / original))
        if mask is None:
            return ""
        path = Path("masks") / Path(file).with_suffix(".png")
        target = self.output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
        if not done:
            raise ValueError(f"{path}: could not be encoded")
        write_bytes(target, data.tobytes())
        return path.as_posix()

    def relative(self, file: str) -> str:
        """Path of the restored folder's file from the manifest's folder."""
        return Path(os.path.relpath(self.root / file, self.output)).as_posix()


@lru_cache(maxsize=PICTURES_PER_JOB)
def _read_original(path: Path) -> np.ndarray:
    """An original, kept for the other forgeries made from it."""
    return read_image(path)


def picture_jobs(rows: Sequence[dict], index: Sequence[dict]) -> list[tuple[str, list]]:
    """Names and jobs of ``PictureRows``.

    Raises:
        DatasetError: for a forgery that is in another split than its original.
    """
    reals = {(r["set"], Path(r["file"]).stem): r for r in index if r["label"] == "real"}
    pairs = []
    for row in rows:
        real = reals.get((row["set"], row["original"])) if row["label"] == "fake" else None
        if real is not None and real["split"] != row["split"]:
            raise DatasetError(
                f"{row['file']} is in split {row['split']!r}, its original {real['file']} in "
                f"{real['split']!r}"
            )
        pairs.append((row, real["file"] if real else ""))
    pairs.sort(key=lambda pair: (pair[0]["set"], pair[0]["group"]))  # originals are read once
    jobs = [pairs[at : at + PICTURES_PER_JOB] for at in range(0, len(pairs), PICTURES_PER_JOB)]
    return [(f"pictures {hashlib.sha256(repr(job).encode()).hexdigest()}", job) for job in jobs]


def clip_groups(rows: Sequence[dict]) -> list[ClipGroup]:
    """Clips by their original, METHOD_target_source.mp4; frames and boxes are the original's."""
    clips: dict[str, list[Clip]] = {}
    for row in rows:
        stem = Path(row["file"]).stem
        label = FAKE if row["label"] == "fake" else REAL
        source = stem.rpartition("_")[2] if label == FAKE else row["group"]
        clips.setdefault(row["group"] or stem, []).append(
            Clip(
                row["file"], f"{row['set']}/{stem}", label,
                method=row["method"] if label == FAKE else "", source=source,
                target=row["group"], compression="c40", split=row["split"],
            )
        )  # fmt: skip
    return [
        ClipGroup(name, tuple(sorted(found, key=lambda clip: (clip.label, clip.path))))
        for name, found in sorted(clips.items())
    ]


def connected_targets(groups: Sequence[ClipGroup]) -> dict[str, str]:
    """Group of the manifest of each identity: those that are swapped with one another are one."""
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while joined.setdefault(name, name) != name:
            name = joined[name]
        return name

    for group in groups:
        for clip in group.clips:
            low, high = sorted((root(clip.source), root(clip.target)))
            joined[high] = low
    return {name: root(name) for name in joined}


@dataclass
class Outcome:
    """Rows of the manifest and the faults met."""

    rows: list[dict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def prepare_pictures(rows, index, options: argparse.Namespace, outcome: Outcome) -> None:
    """Add the rows of all pictures to ``outcome``."""
    work = PictureRows(options.root, options.output, options.most_border)
    jobs = picture_jobs(rows, index)
    order = {work.relative(row["file"]): place for place, row in enumerate(rows)}
    found: list[dict] = []
    for result in run_jobs(
        options.output, work, jobs, workers=options.workers,
        progress="" if options.quiet else "pictures",
    ):  # fmt: skip
        found += result.value or []
        outcome.faults += result.faults
    outcome.rows += sorted(found, key=lambda row: order[row["path"]])


def prepare_clips(rows, options: argparse.Namespace, outcome: Outcome) -> None:
    """Cut the faces of all clips, and add their rows to ``outcome``."""
    groups = clip_groups(rows)
    joined = connected_targets(groups)
    boxes = DetectorBoxes(str(default_weights(options.detector)), SCORE)
    work = FaceCutter(options.root, options.output, CropSettings(frames=options.frames), boxes)
    jobs = [(f"clips {group.name}", group) for group in groups]
    for group, result in zip(
        groups,
        run_jobs(options.output, work, jobs, progress="" if options.quiet else "clips"),
        strict=True,
    ):
        outcome.rows += [
            row | {"set": CLIPS, "group": f"{CLIPS}/{joined[row['target']]}"}
            for row in result.value or []
        ]
        outcome.faults += [f"{group.name}: {fault}" for fault in result.faults]


def build_parser() -> argparse.ArgumentParser:
    """Every option of the preparer, with what it is for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the restored folder, with index.csv")
    parser.add_argument("--output", type=Path, required=True, help="folder for masks and manifest")
    parser.add_argument("--sets", nargs="+", default=[], help="only these (default: all)")
    parser.add_argument(
        "--least-change", type=float, default=0.02,
        help="forgeries that changed a smaller share of the pixels are left out (0.02)",
    )  # fmt: skip
    parser.add_argument(
        "--most-border", type=float, default=8.0,
        help="a pair that differs more along its border, grey levels, is not aligned (8)",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, default=16, help="per clip, evenly spread (16)")
    parser.add_argument("--detector", help="model file that finds faces in clips (the shipped one)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = this one (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    options = build_parser().parse_args(argv)
    outcome = Outcome()
    try:
        index = read_index(options.root)
        rows, unchanged = choose_rows(index, options.sets, options.least_change)
        claim_folder(options.output, _settings(options))
        pictures = [row for row in rows if row["set"] != CLIPS]
        prepare_pictures(pictures, index, options, outcome)
        prepare_clips([row for row in rows if row["set"] == CLIPS], options, outcome)
        if not outcome.rows:
            raise DatasetError(f"{options.root}: not one of {len(rows)} files can be used")
        manifest = options.output / MANIFEST
        write_manifest(manifest, outcome.rows)
        faults = shared_groups(read_manifest(manifest))
        if faults:
            raise DatasetError("; ".join(map(str, faults[:SHOWN_FAULTS])))
    except (ValueError, OSError) as error:
        print(f"prepare_forged: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    _report(outcome, unchanged, manifest)
    return EXIT_SKIPPED if outcome.faults else 0


def _settings(options: argparse.Namespace) -> dict[str, object]:
    names = ("most_border", "frames", "detector")
    settings = {name: getattr(options, name) for name in names}
    return settings | {"root": os.path.realpath(options.root)}


def _report(outcome: Outcome, unchanged: int, manifest: Path) -> None:
    for fault in outcome.faults[:SHOWN_FAULTS]:
        print(f"skipped: {fault}", file=sys.stderr)
    if len(outcome.faults) > SHOWN_FAULTS:
        print(f"and {len(outcome.faults) - SHOWN_FAULTS} more", file=sys.stderr)
    counts = Counter((row["set"], row["split"], row["label"]) for row in outcome.rows)
    for (name, split, label), count in sorted(counts.items()):
        print(f"{count:8d}  {name} / {split} / {label}")
    masks = sum(bool(row.get("mask")) for row in outcome.rows)
    print(
        f"{manifest}: {len(outcome.rows)} rows, {masks} with a mask; {unchanged} forgeries that "
        f"show their original left out, {len(outcome.faults)} files skipped"
    )


if __name__ == "__main__":
    sys.exit(main())

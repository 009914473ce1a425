#!/usr/bin/env python
"""List every fault of a multi-face data set, before it costs a training run.

SET is a name (openforensics_train, ...), an annotation file in COCO format, or FILE.json@FOLDER
when the images are not beside the annotation file. Each line of the output names the file, the
image and annotation ids, the fault, and what the reader does about it:

  error    the reader refuses the set (ids used twice, missing keys, unknown categories, file
           names that lead out of the image folder, ...)
  warning  the reader goes on as it says (boxes clipped or left out, images replaced or skipped)

Without --fast every image is decoded and every mask drawn; with it only headers are read, which
finds missing files and wrong sizes but not truncated pixels.

{LEAKS}
Exit code: 0 no fault; 1 warnings only, leaks among them; 2 a set is unusable (errors), or unusable
arguments.

Examples:
  tools/check_dataset.py openforensics_val
  tools/check_dataset.py faces.json@photos other/faces.json --fast --json report.json
  tools/check_dataset.py faces.json --leaks
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from comics.commands.leak_check import HELP, add_leak_arguments, check_leaks

EXIT_CLEAN, EXIT_FAULTS, EXIT_UNUSABLE = 0, 1, 2


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.replace("{LEAKS}", HELP),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="name, FILE.json, FILE.json@FOLDER")
    parser.add_argument("--fast", action="store_true", help="read the headers of images only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        help="where named sets are (default: $COMICS_DATASETS, else DATASETS.ROOT: datasets)",
    )
    parser.add_argument(
        "--show", type=int, default=20, metavar="N", help="lines per kind of fault (default 20)"
    )
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="threads that read images (default 4)"
    )
    add_leak_arguments(parser)
    return parser


def check_faces(entry: str, root: Path, args: argparse.Namespace) -> tuple[int, dict]:
    """Leaks of the faces of a set, as many as were found, and all of it for JSON."""
    from comics.data.catalog import dataset_files
    from comics.data.faces.coco_faces import coco_manifest

    manifest = coco_manifest(*dataset_files(entry, root))
    return check_leaks(manifest, entry, args, max(1, args.workers))


def check(entry: str, root: Path, args: argparse.Namespace):
    """The report on one set; raises KeyError or DatasetError if there is no such set."""
    from tqdm import tqdm

    from comics.config import get_cfg
    from comics.data.catalog import dataset_files
    from comics.data.validation import Validation

    validation = Validation(
        *dataset_files(entry, root),
        decode=not args.fast,
        max_pixels=get_cfg().INPUT.MAX_PIXELS,
        workers=max(1, args.workers),
    )
    with tqdm(validation, desc=entry, unit="image", disable=not sys.stderr.isatty()) as progress:
        return validation.report(list(progress))


def print_report(report, show: int) -> None:
    """Summary, then the faults, kind by kind, ``show`` of each at most."""
    verdict = "usable" if report.usable else "UNUSABLE"
    if report.usable and not report.trainable:
        verdict = "usable for testing only, training refuses it"
    print(f"{report.source}: {verdict}; {report.images} images, {report.faces} faces")
    for code, count in Counter(fault.code for fault in report.faults).most_common():
        faults = [fault for fault in report.faults if fault.code == code]
        for fault in faults[:show]:
            print(f"  {fault}")
        if count > show:
            print(f"  ... and {count - show} more of {code} (--show, --json)")


def main(arguments: list[str] | None = None) -> int:
    """Check the sets one by one; returns the exit code."""
    args = build_parser().parse_args(arguments)

    from comics.config import get_cfg
    from comics.data.catalog import datasets_root
    from comics.data.records import DatasetError

    root = Path(args.root) if args.root else datasets_root(get_cfg())
    code, reports = EXIT_CLEAN, []
    for entry in args.sets:
        try:
            report = check(entry, root, args)
        except (DatasetError, KeyError) as error:
            print(f"{entry}: {error.args[0]}", file=sys.stderr)
            reports.append({"source": entry, "usable": False, "error": error.args[0]})
            code = EXIT_UNUSABLE
            continue
        print_report(report, args.show)
        reports.append(report.as_dict())
        found = EXIT_FAULTS if report.faults else EXIT_CLEAN
        if report.usable and (args.leaks or args.equalise):
            try:
                leaks, reports[-1]["leak_check"] = check_faces(entry, root, args)
            except (ValueError, OSError) as error:
                print(f"{entry}: {error}", file=sys.stderr)
                leaks, code = 0, EXIT_UNUSABLE
            found = EXIT_FAULTS if leaks else found
        code = max(code, found if report.usable else EXIT_UNUSABLE)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(reports, indent=1), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())

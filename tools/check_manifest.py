"""List every fault of a manifest of single faces: of its rows, and of the files that they name.

Also groups, clips and pictures that two splits share, or two manifests that have no splits.
"""

from __future__ import annotations

import argparse
import sys

from comics.commands.leak_check import HELP, add_leak_arguments, check_leaks
from comics.data.faces.checks import check_files, require_both_classes, shared_groups, summary
from comics.data.faces.manifest import join_manifests, split_entry
from comics.data.faces.manifest_files import read_manifest

EXIT_BAD_ARGUMENTS, EXIT_FAULTS = 2, 1
EPILOG = f"""
{HELP}
examples:
    python tools/check_manifest.py faces/manifest.csv
    python tools/check_manifest.py "faces/manifest.csv@split=train,compression=c23"
    python tools/check_manifest.py faces/manifest.csv --leaks --equalise faces/equalised

exit codes: 0 no fault; 1 files are missing, splits share groups, or there is a leak; 2 the
manifest cannot be used, or has one class alone.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every option of the tool, with what it is for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entries", nargs="+", metavar="MANIFEST", help="as in DATASETS.TRAIN")
    add_leak_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(argv)
    try:
        manifests = []
        for entry in options.entries:
            named = split_entry(entry)
            if named is None:
                raise ValueError(f"{entry}: a manifest ends in .csv")
            manifests.append(read_manifest(named[0]).select(named[1]))
        manifest = join_manifests(manifests)
        print(summary(manifest))
        require_both_classes(manifest, "training")
    except ValueError as error:
        print(f"check_manifest: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    faults = check_files(manifest) + shared_groups(manifest)
    for fault in faults:
        print(fault)
    print(f"{len(manifest)} rows, {len(faults)} faults")
    try:
        leaks, _ = check_leaks(manifest, ", ".join(options.entries), options)
    except (ValueError, OSError) as error:
        print(f"check_manifest: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    return EXIT_FAULTS if faults or leaks else 0


if __name__ == "__main__":
    sys.exit(main())

"""``comics check``: every fault of the sets that one trains and tests on, before it costs a run.

Reading and checking are ``comics.data.validation`` (annotation files in COCO's format, photos with
many faces) and ``comics.data.faces.checks`` (manifests of single faces); ``leak_check`` beside this
module looks for what gives labels away.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.leak_check import HELP, add_leak_arguments, check_leaks
from comics.files import write_bytes

if TYPE_CHECKING:
    from comics.data.catalog import DatasetFiles
    from comics.data.faces.manifest import Manifest
    from comics.data.validation import ValidationReport

DESCRIPTION = f"""\
List every fault of a data set, before it costs a training run.

SET is what DATASETS.TRAIN takes: a name (openforensics_train, ...), an annotation file in COCO's
format (FILE.json, or FILE.json@FOLDER when the images are not beside it), or a manifest of single
faces (FILE.csv, FILE.csv@split=train,compression=c23). What a file is, its content tells.

Of an annotation file each line names the file, the image and annotation ids, the fault, and what
the reader does about it:

  error    the reader refuses the set (ids used twice, missing keys, unknown categories, file
           names that lead out of the image folder, ...)
  warning  the reader goes on as it says (boxes clipped or left out, images replaced or skipped)

Without --fast every image is decoded and every mask drawn; with it only headers are read, which
finds missing files and wrong sizes but not truncated pixels.

Of manifests, all together: files that they name and that are not there, and groups, clips and
pictures that two splits share (or two manifests that have no splits).

{HELP}"""
EPILOG = """\
Exit code: 0 no fault; 1 faults that training or testing goes on with, leaks among them; 2 a set is
unusable (errors; a manifest with one class alone), or unusable arguments.

Examples:
  {prog} openforensics_val
  {prog} faces.json@photos other/faces.json --fast --json report.json
  {prog} "faces/manifest.csv@split=train"
  {prog} faces/manifest.csv --leaks --equalise faces/equalised
"""
EXIT_CLEAN, EXIT_FAULTS, EXIT_UNUSABLE = 0, 1, 2
START = 1 << 16  # bytes at the start of a file that tell what it is
MANIFEST_COLUMNS = {"path", "label"}
ENDINGS = {True: ".csv", False: ".json"}  # under which training knows a manifest, or does not


@dataclass(frozen=True)
class _Entry:
    """A SET of the command line: ``path`` is its file (None: a name), ``rest`` follows the @."""

    text: str
    path: Path | None
    rest: str
    is_manifest: bool

    def misnamed(self) -> str | None:
        """What to say of a file that training would take for the other kind, by its name."""
        if self.path is None or self.path.name.endswith(ENDINGS[self.is_manifest]):
            return None
        kind = "a manifest" if self.is_manifest else "an annotation file in COCO's format"
        return (
            f"{self.path}: is {kind}; training knows one by a name that ends in "
            f"{ENDINGS[self.is_manifest]} [file-name]"
        )


@dataclass
class _Findings:
    """The exit code so far, and what ``--json`` writes."""

    code: int = EXIT_CLEAN
    reports: list[dict] = field(default_factory=list)

    def unusable(self, source: str, message: str) -> None:
        """Note a set that cannot be checked further, and say why."""
        print(f"{source}: {message}", file=sys.stderr)
        self.reports.append({"source": source, "usable": False, "error": message})
        self.code = EXIT_UNUSABLE

    def found(self, code: int) -> None:
        """The worst exit code counts."""
        self.code = max(self.code, code)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument(
        "sets", nargs="+", metavar="SET", help="name, FILE.json, FILE.json@FOLDER, FILE.csv"
    )
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


def run_check(options: argparse.Namespace) -> int:
    """Check annotation files one by one, and manifests together; returns the exit code."""
    entries = [_entry(text) for text in options.sets]
    findings = _Findings()
    for entry in entries:
        if misnamed := entry.misnamed():
            print(misnamed)
            findings.found(EXIT_FAULTS)
    for entry in entries:
        if not entry.is_manifest:
            _check_annotations(entry, options, findings)
    manifests = [entry for entry in entries if entry.is_manifest]
    if manifests:
        _check_manifests(manifests, options, findings)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(options.json, json.dumps(findings.reports, indent=1).encode())
    return findings.code


def _entry(text: str) -> _Entry:
    """What a SET of the command line names."""
    path, rest, by_name = _parts(text)
    if not path.is_file():
        return _Entry(text, None, rest, by_name)
    return _Entry(text, path, rest, by_name if (told := _is_manifest(path)) is None else told)


def _parts(text: str) -> tuple[Path, str, bool]:
    """(file, what follows the @, whether the name is a manifest's) of a SET."""
    for ending, is_manifest in ((".csv", True), (".json", False)):
        before, mark, rest = text.partition(ending + "@")
        if mark:
            return Path(before + ending), rest, is_manifest
    return Path(text), "", text.endswith(".csv")


def _is_manifest(path: Path) -> bool | None:
    """Whether a file's content is a manifest; None if it is neither that nor JSON."""
    try:
        with open(path, "rb") as file:
            start = file.read(START).decode("utf-8-sig", errors="replace").lstrip()
    except OSError:
        return None
    if start[:1] in ("{", "["):
        return False
    columns = {name.strip() for name in next(csv.reader(start.splitlines()[:1]), [])}
    return True if columns >= MANIFEST_COLUMNS else None


def _check_annotations(entry: _Entry, options: argparse.Namespace, findings: _Findings) -> None:
    from comics.data.faces.coco_faces import coco_manifest
    from comics.data.records import DatasetError

    try:
        files = _files(entry, options)
        report = _validated(entry.text, files, options)
    except (DatasetError, KeyError) as error:
        findings.unusable(entry.text, str(error.args[0]))
        return
    _print_report(report, options.show)
    findings.reports.append(report.as_dict())
    findings.found(EXIT_FAULTS if report.faults else EXIT_CLEAN)
    if not report.usable:
        findings.found(EXIT_UNUSABLE)
    elif options.leaks or options.equalise:
        try:
            _look_for_leaks(coco_manifest(*files), entry.text, options, findings)
        except (ValueError, OSError) as error:
            print(f"{entry.text}: {error}", file=sys.stderr)
            findings.found(EXIT_UNUSABLE)


def _files(entry: _Entry, options: argparse.Namespace) -> DatasetFiles:
    """Where the annotations and images of a SET are."""
    from comics.config import get_cfg
    from comics.data.catalog import DatasetFiles, dataset_files, datasets_root

    if entry.path is not None:
        return DatasetFiles(entry.path, Path(entry.rest) if entry.rest else entry.path.parent)
    root = Path(options.root) if options.root else datasets_root(get_cfg())
    return dataset_files(entry.text, root)


def _validated(name: str, files: DatasetFiles, options: argparse.Namespace) -> ValidationReport:
    from tqdm import tqdm

    from comics.config import get_cfg
    from comics.data.validation import Validation

    validation = Validation(
        *files,
        decode=not options.fast,
        max_pixels=get_cfg().INPUT.MAX_PIXELS,
        workers=max(1, options.workers),
    )
    with tqdm(validation, desc=name, unit="image", disable=not sys.stderr.isatty()) as progress:
        return validation.report(list(progress))


def _print_report(report: ValidationReport, show: int) -> None:
    """Summary, then the faults, kind by kind, ``show`` of each at most."""
    verdict = "usable" if report.usable else "UNUSABLE"
    if report.usable and not report.trainable:
        verdict = "usable for testing only, training refuses it"
    print(f"{report.source}: {verdict}; {report.images} images, {report.faces} faces")
    _print_faults(report.faults, show, "  ")


def _print_faults(all_faults: list, show: int, indent: str) -> None:
    for code, count in Counter(fault.code for fault in all_faults).most_common():
        for fault in [fault for fault in all_faults if fault.code == code][:show]:
            print(f"{indent}{fault}")
        if count > show:
            print(f"{indent}... and {count - show} more of {code} (--show, --json)")


def _check_manifests(
    entries: list[_Entry], options: argparse.Namespace, findings: _Findings
) -> None:
    """Check manifests as one set: what they share among each other counts too."""
    from comics.data.faces.checks import check_files, require_both_classes, shared_groups, summary
    from comics.data.faces.manifest import join_manifests

    name = ", ".join(entry.text for entry in entries)
    try:
        manifest = join_manifests([_manifest(entry) for entry in entries])
        print(summary(manifest))
        require_both_classes(manifest, "training")
    except ValueError as error:
        findings.unusable(name, str(error))
        return
    faults = check_files(manifest) + shared_groups(manifest)
    _print_faults(faults, options.show, "")
    print(f"{len(manifest)} rows, {len(faults)} faults")
    findings.found(EXIT_FAULTS if faults else EXIT_CLEAN)
    findings.reports.append(
        {
            "source": name,
            "usable": True,
            "rows": len(manifest),
            "faults": [asdict(fault) for fault in faults],
        }
    )
    try:
        _look_for_leaks(manifest, name, options, findings)
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        findings.found(EXIT_UNUSABLE)


def _manifest(entry: _Entry) -> Manifest:
    """The rows that a SET names. Raises DatasetError, a ValueError, if they cannot be read."""
    from comics.data.faces.manifest import split_entry
    from comics.data.faces.manifest_files import read_manifest

    named = split_entry(entry.text)  # None of a manifest under the name of something else
    path, conditions = named if named is not None else (entry.path or entry.text, {})
    return read_manifest(path).select(conditions)


def _look_for_leaks(
    manifest: Manifest, name: str, options: argparse.Namespace, findings: _Findings
) -> None:
    """Leaks of the set that was reported on last, where ``--leaks`` or ``--equalise`` asks."""
    if not options.leaks and options.equalise is None:
        return
    leaks, findings.reports[-1]["leak_check"] = check_leaks(
        manifest, name, options, max(1, options.workers)
    )
    findings.found(EXIT_FAULTS if leaks else EXIT_CLEAN)

"""``comics report``: one page of a run, made again from the files that the run left."""

from __future__ import annotations

import argparse
from pathlib import Path

from comics.commands.stopping import stop

DESCRIPTION = """\
Write report.html into the output folder of a run of "comics detect" or "comics video", from its
results.json and videos/*.json. Those commands do so themselves at their end; this one is for runs
whose media were moved, or of an earlier version. And of a job of "comics scale", from its Parquet:
FOLDER may then be an address (s3://bucket/folder), where the page goes too; it has no pictures.

The page is one file without requests: thumbnails of the annotated media, tables of files and of
faces (of a video: of tracks) that can be sorted and filtered, a slider that shows how verdicts
change with the threshold, and the timeline of each video. A big run shows its most suspicious files
and faces; results.csv and files.csv hold all. A click on a face opens its page: the clean crop,
its mask, its heat map where there is one, and how firm its verdict is. All of it can be read
without JavaScript, and printed on A4: one page of summary, the files, a page for each face that is
forged or unclear. --pdf does so through a browser that is on this machine (Chromium, Chrome, Edge,
or the one that COMICS_BROWSER names).
"""
EPILOG = """\
Exit code: 0 written; 2 no run in that folder, one that this version cannot read, or no browser for
--pdf; 1 the page or the PDF cannot be written.

Examples:
  {prog} out
  {prog} out --pdf report.pdf
  {prog} s3://results/2026
"""
EXIT_OK, EXIT_OUTPUT, EXIT_ARGUMENTS = 0, 1, 2


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    parser.add_argument("folder", metavar="FOLDER", help="output folder of a run or job")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--pdf", type=Path, metavar="FILE", help="also print the page into FILE")


def run_report(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from comics.pages.printing import PrintingError, find_browser, print_page
    from comics.pages.run_report import write_run_report
    from comics.runs.results_reader import ResultsError
    from comics.scale.reader import is_scale_output

    title = {} if options.title is None else {"title": options.title}
    try:
        of_job = is_scale_output(options.folder)
    except (OSError, ValueError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    if of_job:
        return _report_job(options, title)
    try:
        browser = None if options.pdf is None else find_browser()
    except PrintingError as error:
        return stop(options, error, EXIT_ARGUMENTS)
    try:
        path = write_run_report(Path(options.folder), **title)
    except ResultsError as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except OSError as error:
        return stop(options, f"the page cannot be written: {error}", EXIT_OUTPUT)
    print(f"Report: {path}")
    if browser is not None:
        try:
            print_page(path, options.pdf, browser)
        except (PrintingError, OSError) as error:
            return stop(options, f"the PDF cannot be written: {error}", EXIT_OUTPUT)
        print(f"PDF: {options.pdf}")
    return EXIT_OK


def _report_job(options: argparse.Namespace, title: dict[str, str]) -> int:
    """The page of a job of ``comics scale``; returns the exit code."""
    from comics.commands.scale_report import write_job_report
    from comics.scale.storage import StorageError
    from comics.scale.tables import SchemaError

    if options.pdf is not None:
        return stop(options, "--pdf is for runs of comics detect and video", EXIT_ARGUMENTS)
    try:
        name = write_job_report(options.folder, **title)
    except SchemaError as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except StorageError as error:
        return stop(options, f"the page cannot be written: {error}", EXIT_OUTPUT)
    print(f"Report: {name}")
    return EXIT_OK

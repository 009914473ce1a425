"""The page of a job of ``comics scale``: its rows, through what makes the pages of runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from comics.pages.report_rows import RunRowsCollector
from comics.pages.run_report import REPORT_NAME, TITLE, write_rows_report
from comics.scale.reader import ScaleOutput
from comics.scale.storage import write_file


def write_job_report(address: str, title: str = TITLE) -> str:
    """Write ``report.html`` beside the outputs of a job; returns its name.

    Memory grows with the number of files, about a kilobyte each: above some millions, a query over
    the Parquet tells more.

    Raises:
        SchemaError: if what is there is no output of a job.
        StorageError: if it cannot be read, or the page not be written.
    """
    output = ScaleOutput(address)
    collector = RunRowsCollector()
    for entry, images in output.files():
        collector.add_file(entry)
        for image, faces in images:
            collector.add_image(image, faces)
    told = output.summary()
    with tempfile.TemporaryDirectory(prefix="comics-report-") as folder:
        rows = collector.rows(Path(folder), told["provenance"], told["summary"], told["run"])
        page = write_rows_report(Path(folder), rows, title)
        target = output.folder.root / REPORT_NAME
        write_file(target, page.read_bytes())
    return target.name

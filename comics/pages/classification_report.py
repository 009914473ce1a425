"""A report on P(fake) per face, frame, track and video, from a table of predictions."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

import comics
from comics.evaluation.classification import ClassificationMetrics
from comics.evaluation.predictions import LEVELS, Predictions, metrics_at, metrics_by
from comics.evaluation.tables import markdown_table
from comics.files import write_bytes
from comics.pages import evaluation_charts as charts
from comics.pages.evaluation_report import SCHEMA_VERSION, render

TEMPLATE = "classification.html"
COUNTS = ("n", "n_real", "n_fake")


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of a table of predictions.

    Attributes:
        predictions: the table.
        levels: "face", "video", ... -> figures.
        groups: column -> value -> figures, at face level.
        notes: why figures are undefined, each with its level or group.
    """

    predictions: Predictions
    levels: dict[str, ClassificationMetrics]
    groups: dict[str, dict[str, ClassificationMetrics]]
    notes: list[str]


def build_classification_report(
    predictions: Predictions, by: Sequence[str] = ()
) -> ClassificationReport:
    """Figures at every level that the table has the columns for, and by the columns ``by``.

    Raises:
        ValueError: for a column that the table lacks.
    """
    levels = {}
    for level, columns in LEVELS.items():
        own = [name for name in columns if name in ("video", "track", "frame")]
        if all(name in predictions.columns for name in own):
            levels[level] = metrics_at(predictions, level, intervals=True)
    groups = {column: metrics_by(predictions, column) for column in by}
    notes = [f"{level}: {note}" for level, found in levels.items() for note in found.notes]
    for column, values in groups.items():
        notes += [f"{column} {v}: {note}" for v, found in values.items() for note in found.notes]
    return ClassificationReport(predictions, levels, groups, notes)


def classification_figures(report: ClassificationReport) -> dict[str, float]:
    """``{"AUC": ..., "video/AUC": ..., "method/DF/AUC": ...}``: face level without a prefix."""
    figures: dict[str, float] = {}
    for level, found in report.levels.items():
        prefix = "" if level == "face" else f"{level}/"
        figures |= {prefix + name: float(value) for name, value in found.values.items()}
    for column, values in report.groups.items():
        for value, found in values.items():
            figures |= {f"{column}/{value}/{n}": float(v) for n, v in found.values.items()}
    return figures


def classification_tables(
    report: ClassificationReport,
) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Caption -> heading and rows; x100, counts as they are."""
    names = list(report.levels["face"].values)
    groups = {"By what counts as one example": report.levels}
    groups |= {f"By {column}": values for column, values in report.groups.items()}
    return {
        caption: (
            ["", *names],
            [[key, *_cells(found, names)] for key, found in values.items()],
        )
        for caption, values in groups.items()
    }


def write_classification_report(
    report: ClassificationReport,
    folder: str | os.PathLike,
    title: str,
    identity: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Write report.html, report.md, figures.csv and figures.json; returns their paths.

    Args:
        identity: "method", "train" and "test", for ``comics.evaluation.tables``.
    """
    figures = classification_figures(report)
    provenance = {
        "predictions": report.predictions.source,
        "software": f"comics {comics.__version__}",
        **(identity or {}),
    }
    tables = classification_tables(report)
    page = render(
        TEMPLATE,
        title=title,
        notes=report.notes,
        tables=tables,
        charts={name: Markup(svg) for name, svg in _charts(report).items()},
        provenance=provenance,
    )
    parts = [f"# {title}", "Figures x100, counts apart."]
    parts += [f"## {caption}\n\n{markdown_table(*table)}" for caption, table in tables.items()]
    parts += ["\n".join(f"* {note}" for note in report.notes)]
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["figure", "value"])
    writer.writerows([n, "" if math.isnan(v) else repr(v)] for n, v in figures.items())
    content = {
        "schema_version": SCHEMA_VERSION,
        **(identity or {}),
        "figures": {n: None if math.isnan(v) else v for n, v in figures.items()},
        "notes": report.notes,
        "provenance": provenance,
    }
    texts = {
        "report.html": page,
        "report.md": "\n\n".join(parts) + "\n",
        "figures.csv": rows.getvalue(),
        "figures.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
    }
    paths = {name: Path(folder) / name for name in texts}
    for name, text in texts.items():
        write_bytes(paths[name], text.encode("utf-8", "backslashreplace"))
    return paths


def _cells(found: ClassificationMetrics, names: Sequence[str]) -> list[str]:
    cells = []
    for name in names:
        value = found.values.get(name, math.nan)
        text = f"{value:.0f}" if name in COUNTS else f"{100 * value:.2f}"
        cells.append("n/a" if math.isnan(value) else text)
    return cells


def _charts(report: ClassificationReport) -> dict[str, str]:
    predictions, metrics = report.predictions, report.levels["face"]
    drawn = {"Reliability of P(fake)": charts.reliability_chart(metrics.bins)}
    if len(np.unique(predictions.labels)) == 2:
        title = f"AUC {100 * metrics.values['AUC']:.1f}"
        drawn["ROC"] = charts.roc_chart(predictions.labels, predictions.scores, title)
    return drawn

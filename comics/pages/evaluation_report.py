"""A report that a person can read and a paper can quote: HTML, Markdown, CSV and JSON.

The HTML page is one file: charts are SVG inside it, pictures data URIs. It makes no request, runs
no script, and escapes every name that it shows.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

import comics
from comics.evaluation.classification import ClassificationMetrics, auc, bootstrap_interval
from comics.evaluation.faces import (
    FAKE_THRESHOLD,
    SCORE_THRESHOLD,
    FaceVerdicts,
    confusion,
    face_metrics,
    face_verdicts,
)
from comics.evaluation.metrics import COLUMNS, MODES, Metrics
from comics.evaluation.robustness import CLEAN, RobustnessTable
from comics.evaluation.tables import markdown_table, percent, plain_text
from comics.files import write_bytes
from comics.pages import evaluation_charts as charts
from comics.pages import html_pages
from comics.pages.evaluation_gallery import Example, draw_galleries

SCHEMA_VERSION = "1.0"
TEMPLATE = "evaluation_report.html"
HEADLINE = {
    **COLUMNS,
    "AP50": "AP50",
    "AP75": "AP75",
    "AR_100": "AR",
    "AP50_agnostic": "AP50 any class",
}
FACE_COLUMNS = (
    "AUC", "AUC_all", "EER", "EER_bench", "AP", "accuracy", "accuracy_real", "accuracy_fake",
    "balanced_accuracy", "TPR@FPR=0.1", "TPR@FPR=0.01", "ECE", "faces_found",
)  # fmt: skip
ROBUSTNESS_METRICS = 3  # how many figures the robustness table shows next to each other


@dataclass(frozen=True)
class FaceLevel:
    """Classification of the annotated faces, for one mode.

    Attributes:
        verdicts: on every face.
        metrics: figures, reliability bins and notes.
        interval: 95 % bootstrap interval of the AUC over images.
        confusion: [2, 3] real, fake by called real, called fake, missed.
        false_alarms: detections of no face.
    """

    verdicts: FaceVerdicts
    metrics: ClassificationMetrics
    interval: tuple[float, float]
    confusion: np.ndarray
    false_alarms: int


@dataclass(frozen=True)
class Report:
    """Everything that goes into a report.

    Attributes:
        title: heading of the page.
        metrics: of boxes and masks.
        faces: face-level figures; None where the set has no real and fake category.
        galleries: heading -> faces.
        robustness: over corruptions; None if not measured.
        robustness_metrics: which of its figures are shown; the first is drawn.
        provenance: where the numbers come from: files, model, versions.
        identity: "method", "train" and "test", for ``comics.evaluation.tables``; may be empty.
        notes: what a reader must know.
    """

    title: str
    metrics: Metrics
    faces: FaceLevel | None
    galleries: dict[str, list[Example]]
    robustness: RobustnessTable | None
    robustness_metrics: list[str]
    provenance: dict[str, str]
    identity: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_report(
    metrics: Metrics,
    title: str,
    *,
    image_root: str | os.PathLike | None = None,
    robustness: RobustnessTable | None = None,
    robustness_metrics: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
    temperature: float = 1.0,
    identity: Mapping[str, str] | None = None,
) -> Report:
    """Gather figures, galleries and notes.

    Args:
        metrics: from ``evaluate``.
        title: heading.
        image_root: folder of the images, for the galleries; None: no galleries.
        robustness: from ``measure_grid``.
        robustness_metrics: names of the figures to show, the first is drawn.
        provenance: added to what is known already (files, counts, version).
        temperature: that calibrates P(fake); 1 for none.
        identity: "method", "train" and "test", for tables over several reports.
    """
    mode = next((name for name in metrics.modes if name != "bbox"), "bbox")
    notes = list(metrics.notes)
    faces = None
    galleries: dict[str, Any] = {}
    try:
        faces = _face_level(metrics, mode, temperature)
        notes += faces.metrics.notes
    except ValueError as error:
        notes.append(str(error))
    if faces is not None and image_root is not None:
        galleries, faults = draw_galleries(metrics, mode, faces.verdicts, Path(image_root))
        notes += faults
    truth = metrics.ground_truth
    known = {
        "ground truth": truth.source,
        "results": metrics.detections.source,
        "images": str(len(truth.image_ids)),
        "faces": str(len(truth)),
        "detections": str(len(metrics.detections)),
        "software": f"comics {comics.__version__}",
        **{f"mode {name}": MODES[name] for name in metrics.modes},
    }
    notes += [] if robustness is None else robustness.faults
    shown = list(robustness_metrics)[:ROBUSTNESS_METRICS]
    return Report(
        title=title,
        metrics=metrics,
        faces=faces,
        galleries=galleries,
        robustness=robustness,
        robustness_metrics=shown,
        provenance=known | dict(provenance or {}) | dict(identity or {}),
        identity=dict(identity or {}),
        notes=notes,
    )


def write_report(report: Report, folder: str | os.PathLike) -> dict[str, Path]:
    """Write report.html, report.md, figures.csv and figures.json; returns their paths."""
    folder = Path(folder)
    content = {
        "report.html": report_html(report),
        "report.md": report_markdown(report),
        "figures.csv": figures_csv(report),
        "figures.json": figures_json(report),
    }
    paths = {}
    for name, text in content.items():
        paths[name] = folder / name
        # Surrogates stand for bytes of file names that are no UTF-8
        write_bytes(paths[name], text.encode("utf-8", "backslashreplace"))
    return paths


def report_html(report: Report) -> str:
    """The page."""
    faces, robustness = report.faces, report.robustness
    return render(
        TEMPLATE,
        title=report.title,
        notes=report.notes,
        headline=_headline(report.metrics),
        modes={mode: MODES[mode] for mode in report.metrics.modes},
        thresholds=_thresholds(report.metrics),
        charts={name: Markup(svg) for name, svg in _charts(report).items()},
        face_figures=None if faces is None else _face_figures(faces),
        confusion=None if faces is None else _confusion_rows(faces),
        false_alarms=None if faces is None else faces.false_alarms,
        score_threshold=SCORE_THRESHOLD,
        fake_threshold=FAKE_THRESHOLD,
        galleries={name: found for name, found in report.galleries.items() if found},
        robustness=robustness and robustness.rows(report.robustness_metrics),
        figures=sorted(report.metrics.flat().items()),
        provenance=report.provenance,
        percent=percent,
    )


def render(template: str, **content: Any) -> str:
    """A page from one of the package's templates; all text is escaped."""
    return html_pages.render(template, **content)


def report_markdown(report: Report) -> str:
    """The tables as Markdown."""
    parts = [
        f"# {plain_text(report.title)}",
        "Figures x100; oLRP, Loc, FP and FN: lower is better.",
    ]
    parts.append(markdown_table(*_headline(report.metrics)))
    parts.append("\n".join(f"* {mode}: {MODES[mode]}" for mode in report.metrics.modes))
    heading, rows = _thresholds(report.metrics)
    parts += ["## LRP-optimal score thresholds", markdown_table(heading, rows)]
    if report.faces is not None:
        figures = [[name, text] for name, text in _face_figures(report.faces)]
        heading = ["", "called real", "called fake", "missed"]
        rows = [[name, *cells] for name, cells in _confusion_rows(report.faces)]
        parts += ["## Face level", markdown_table(["figure", "x100"], figures)]
        parts += [markdown_table(heading, rows), f"False alarms: {report.faces.false_alarms}"]
    if report.robustness is not None:
        parts += ["## Robustness", report.robustness.markdown(report.robustness_metrics)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"* {plain_text(note)}" for note in report.notes)]
    origin = [
        f"* {plain_text(name)}: {plain_text(value)}" for name, value in report.provenance.items()
    ]
    parts += ["## Where these results come from", "\n".join(origin)]
    return "\n\n".join(parts) + "\n"


def figures_csv(report: Report) -> str:
    """figure, value: every figure 0 to 1 with all digits; undefined ones are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["figure", "value"])
    for name, value in _all_figures(report).items():
        writer.writerow([name, "" if math.isnan(value) else repr(value)])
    return buffer.getvalue()


def figures_json(report: Report) -> str:
    """The same as JSON, with notes and provenance; undefined figures are null."""
    figures = {name: None if math.isnan(v) else v for name, v in _all_figures(report).items()}
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        **report.identity,
        "modes": {mode: MODES[mode] for mode in report.metrics.modes},
        "figures": figures,
        "notes": report.notes,
        "provenance": report.provenance,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _face_level(metrics: Metrics, mode: str, temperature: float) -> FaceLevel:
    verdicts = face_verdicts(metrics, mode, temperature=temperature)
    figures = face_metrics(verdicts)
    found = ~np.isnan(verdicts.fake_probability)
    images = metrics.ground_truth.image[verdicts.face[found]].tolist()
    interval = bootstrap_interval(
        auc, verdicts.labels[found], verdicts.fake_probability[found], clusters=images
    )
    table, false_alarms = confusion(verdicts)
    return FaceLevel(verdicts, figures, interval, table, false_alarms)


def _all_figures(report: Report) -> dict[str, float]:
    figures = dict(report.metrics.flat())
    if report.faces is not None:
        figures |= {f"face/{n}": float(v) for n, v in report.faces.metrics.values.items()}
        low, high = report.faces.interval
        figures |= {"face/AUC_low": low, "face/AUC_high": high}
    if report.robustness is not None:
        table = report.robustness
        for (name, level), values in zip(table.conditions, table.figures, strict=True):
            place = name if name == CLEAN else f"{name} {level:g}"
            figures |= {f"robustness/{place}/{n}": float(v) for n, v in values.items()}
    return figures


def _headline(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    flat = metrics.flat()
    rows = []
    for mode in metrics.modes:
        rows.append([mode, "all", *(percent(flat[f"{mode}/{name}"]) for name in HEADLINE)])
        for category in metrics.ground_truth.category_names:
            values = (flat.get(f"{mode}/{name}/{category}") for name in HEADLINE)
            rows.append([mode, category, *("" if v is None else percent(v) for v in values)])
    return ["Mode", "Class", *HEADLINE.values()], rows


def _thresholds(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    rows = []
    for mode, result in metrics.modes.items():
        for name, values in zip(
            metrics.ground_truth.category_names, result.per_class.values(), strict=True
        ):
            sizes = (values["thr" + suffix] for suffix in ("", "_S", "_M", "_L"))
            cells = ["n/a" if math.isnan(v) or v < 0 else f"{v:.3f}" for v in sizes]
            rows.append([mode, name, *cells])
    return ["Mode", "Class", "all", "small", "medium", "large"], rows


def _face_figures(faces: FaceLevel) -> list[tuple[str, str]]:
    figures = []
    for name in FACE_COLUMNS:
        text = percent(float(faces.metrics.values[name]))
        if name == "AUC":
            text += " ({} to {})".format(*map(percent, faces.interval))
        figures.append((name, text))
    return figures


def _confusion_rows(faces: FaceLevel) -> list[tuple[str, list[str]]]:
    rows = []
    for name, counts in zip(("Real", "Fake"), faces.confusion, strict=True):
        total = max(int(counts.sum()), 1)
        rows.append((name, [f"{n} ({percent(n / total)} %)" for n in counts.tolist()]))
    return rows


def _charts(report: Report) -> dict[str, str]:
    metrics, faces = report.metrics, report.faces
    drawn = {f"Precision and recall, {m}": charts.precision_recall_chart(metrics, m)
             for m in metrics.modes}  # fmt: skip
    if faces is not None:
        found = ~np.isnan(faces.verdicts.fake_probability)
        labels = faces.verdicts.labels[found]
        if len(np.unique(labels)) == 2:
            title = f"faces that were found: AUC {percent(faces.metrics.values['AUC'])}"
            scores = faces.verdicts.fake_probability[found]
            drawn["ROC of faces"] = charts.roc_chart(labels, scores, title)
        drawn["Reliability of P(fake)"] = charts.reliability_chart(faces.metrics.bins)
    drawn["AP by size of face"] = charts.size_chart(metrics)
    for mode in metrics.modes:
        drawn[f"What makes up oLRP, {mode}"] = charts.component_chart(metrics, mode)
    if report.robustness is not None and report.robustness_metrics:
        metric = report.robustness_metrics[0]
        series = report.robustness.series(metric)
        clean = series.pop(CLEAN)[0][1]
        drawn[f"Robustness, {metric}"] = charts.robustness_chart(series, metric, clean)
    return drawn

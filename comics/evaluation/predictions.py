"""Tables of P(fake) per face crop or frame, as CSV, and their figures by frame, track and video.

Columns: ``label`` (0 real, 1 fake) and ``fake_probability``; optionally ``dataset``, ``method``
(of forgery), ``compression``, ``video``, ``track``, ``frame``. Any tool can write them.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comics.data.csv_tables import read_table
from comics.evaluation.classification import (
    BOOTSTRAP_SAMPLES,
    ClassificationMetrics,
    auc,
    bootstrap_interval,
    check_scores,
    classification_metrics,
    group_mean,
)
from comics.files import write_bytes

REQUIRED = ("label", "fake_probability")
# Ids of videos and tracks repeat between data sets and between methods
SOURCE = ("dataset", "method", "compression")
LEVELS = {
    "face": (),
    "frame": (*SOURCE, "video", "frame"),
    "track": (*SOURCE, "video", "track"),
    "video": (*SOURCE, "video"),
}


@dataclass(frozen=True)
class Predictions:
    """One row per classified face.

    Attributes:
        labels: [N] int64, 0 real, 1 fake.
        scores: [N] float64, P(fake).
        columns: name -> [N] text, the optional columns that are there.
        source: for messages.
    """

    labels: np.ndarray
    scores: np.ndarray
    columns: dict[str, list[str]]
    source: str

    def keys(self, names: Sequence[str]) -> list[tuple]:
        """[N] tuples of those of the columns that the table has."""
        present = [self.columns[name] for name in names if name in self.columns]
        if not present:
            return [()] * len(self.labels)
        return list(zip(*present, strict=True))

    def select(self, chosen: np.ndarray) -> Predictions:
        """The rows where ``chosen`` [N] holds."""
        places = np.flatnonzero(chosen)
        columns = {name: [values[i] for i in places] for name, values in self.columns.items()}
        return Predictions(self.labels[places], self.scores[places], columns, self.source)


def load_predictions(path: str | os.PathLike) -> Predictions:
    """Read a CSV of predictions.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file and line: a missing column, a label that is neither 0 nor 1, a
            probability outside [0, 1], a row of another length, no row at all.
    """
    source = os.fspath(path)
    try:
        table = read_table(path)
        lines = list(table.rows)
    except ValueError as error:
        raise ValueError(f"{source} is not a readable CSV file: {error}") from error
    names = list(table.columns)
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ValueError(f"{source} has no column {', '.join(missing)}; it has {names}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source} has the column {', '.join(twice)} more than once")
    rows = []
    for line, values in lines:
        if len(values) != len(names):
            raise ValueError(f"{source}, line {line}: not {len(names)} values")
        rows.append(dict(zip(names, values, strict=True)))
    labels = [_number(row["label"]) for row in rows]
    scores = [_number(row["fake_probability"]) for row in rows]
    try:
        checked = check_scores(labels, scores)
    except ValueError as error:
        raise ValueError(f"{source} (entry 0 is the row below the heading): {error}") from error
    extra = {name: [row[name] for row in rows] for name in names if name not in REQUIRED}
    return Predictions(*checked, extra, source)


def write_predictions(path: str | os.PathLike, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV of predictions; it has its name only when complete.

    Args:
        path: its folder is made.
        rows: column -> value, all with the columns of the first, ``REQUIRED`` ones among them.

    Raises:
        ValueError: for no row, or one of other columns.
    """
    if not rows:
        raise ValueError(f"{os.fspath(path)}: there are no predictions to write")
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode("utf-8", "backslashreplace"))


def metrics_at(
    predictions: Predictions, level: str, intervals: bool = False
) -> ClassificationMetrics:
    """Figures by "face", "frame", "track" or "video" (mean score; fake if any face is).

    Args:
        predictions: with a column ``video`` (and ``frame`` or ``track``) for those levels.
        level: what counts as one example.
        intervals: add AUC_low and AUC_high: bootstrap over videos where there are any.

    Raises:
        ValueError: for an unknown level, or a column that it needs and the table lacks.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be among {', '.join(LEVELS)}, got {level!r}")
    needed = [name for name in LEVELS[level] if name not in SOURCE]
    missing = [name for name in needed if name not in predictions.columns]
    if missing:
        raise ValueError(f"{predictions.source}: by {level} needs a column {', '.join(missing)}")
    labels, scores = predictions.labels, predictions.scores
    clusters = predictions.keys(LEVELS["video"]) if "video" in predictions.columns else None
    notes = []
    if LEVELS[level]:
        keys = predictions.keys(LEVELS[level])
        labels, scores, names = group_mean(labels, scores, keys, any_fake=True)
        length = len(predictions.keys(SOURCE)[0]) + 1  # the part of a key that names the video
        clusters = [name[:length] for name in names]
        if level == "video":
            single = sum(count == 1 for count in Counter(keys).values())
            notes = [f"{single} of {len(names)} videos have a single frame"] if single else []
        absent = [name for name in ("dataset", "method") if name not in predictions.columns]
        if absent:
            notes.append(
                f"no column {', '.join(absent)}: groups of the same name that differ in it are one"
            )
    metrics = classification_metrics(labels, scores)
    if intervals:
        low, high = bootstrap_interval(auc, labels, scores, clusters, BOOTSTRAP_SAMPLES)
        metrics.values.update(AUC_low=low, AUC_high=high)
    metrics.notes.extend(notes)
    return metrics


def metrics_by(
    predictions: Predictions, column: str, level: str = "face", shared_real: bool = True
) -> dict[str, ClassificationMetrics]:
    """Figures of each value of a column such as ``dataset``, ``method`` or ``compression``.

    Args:
        column: what to group by.
        level: as in ``metrics_at``.
        shared_real: a group without a real face (as forgery methods are) is set against the
            real faces of the whole table, and the notes say so.

    Raises:
        ValueError: if the table lacks the column.
    """
    if column not in predictions.columns:
        raise ValueError(f"{predictions.source} has no column {column!r}")
    values = np.array(predictions.columns[column])
    real = predictions.labels == 0
    figures = {}
    for value in dict.fromkeys(predictions.columns[column]):
        chosen = values == value
        borrowed = shared_real and not (chosen & real).any() and real.any()
        metrics = metrics_at(predictions.select(chosen | real if borrowed else chosen), level)
        if borrowed:
            metrics.notes.append(f"{value} has no real face: set against those of the whole table")
        figures[value] = metrics
    return figures


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

"""A paper's table from predictions: mean and deviation over seeds, paired intervals.

Shape letters: K seeds; N faces or videos.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from comics.evaluation.classification import (
    BOOTSTRAP_SAMPLES,
    CONFIDENCE,
    auc,
    group_mean,
    resampled_interval,
)
from comics.evaluation.predictions import LEVELS, SOURCE, Predictions, metrics_at
from comics.evaluation.tables import markdown_table

PAIRED = "AUC"  # the figure that rows are compared by


@dataclass(frozen=True)
class Scored:
    """What a model says of a test set, at the level of a table.

    Attributes:
        labels: [N] int64.
        scores: [N] float64, P(fake).
        names: [N] what each is: two models must be asked of the same.
        clusters: [N] what is resampled as a whole: groups where they are known, else videos.
    """

    labels: np.ndarray
    scores: np.ndarray
    names: list[Hashable]
    clusters: list[Hashable]


@dataclass
class ProtocolTable:
    """Figures by row, column and metric, one per seed.

    Attributes:
        rows: (group, name), in order.
        columns, metrics: names, in order.
        values: (group, name, column, metric) -> [K] figures, 0 to 1.
        differences: (group, name, column) -> (mean difference, low, high) of the AUC to the
            baseline of the same group, 0 to 1.
        published: (group, name) -> the paper's figures as it prints them, columns by metrics.
        baseline: name of the row that others are compared with; "" for none.
    """

    rows: list[tuple[str, str]]
    columns: list[str]
    metrics: list[str]
    values: dict[tuple[str, str, str, str], list[float]] = field(default_factory=dict)
    differences: dict[tuple[str, str, str], tuple[float, float, float]] = field(
        default_factory=dict
    )
    published: dict[tuple[str, str], list] = field(default_factory=dict)
    baseline: str = ""

    def markdown(self) -> str:
        """The table x100, mean ± standard deviation; then what differs from the baseline."""
        parts = [
            markdown_table(self._heading(self.metrics), [self._line(row) for row in self.rows])
        ]
        if self.differences:
            parts.append(
                f"Difference of the {PAIRED} to {self.baseline}, points, with "
                f"{100 * CONFIDENCE:.0f} % intervals: the same faces, resampled by groups"
            )
            compared = [row for row in self.rows if row[1] != self.baseline]
            parts.append(
                markdown_table(self._heading([]), [self._compared(row) for row in compared])
            )
        if self.published:
            parts.append("As the paper prints it")
            lines = [self._printed(row) for row in self.published]
            parts.append(markdown_table(self._heading(self.metrics), lines))
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """A line per figure: group, row, column, metric, number of the seed, value."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["group", "row", "column", "metric", "run", "value"])
        for key, values in self.values.items():
            writer.writerows([*key, number, repr(value)] for number, value in enumerate(values))
        return buffer.getvalue()

    def _heading(self, metrics: Sequence[str]) -> list[str]:
        several = len(metrics) > 1
        names = [f"{c} {m}" if several else c for c in self.columns for m in metrics or [""]]
        return [*(["Train"] if self._grouped else []), "Method", *(name.strip() for name in names)]

    @property
    def _grouped(self) -> bool:
        return any(group for group, _ in self.rows)

    def _line(self, row: tuple[str, str]) -> list[str]:
        cells = [
            _spread(self.values.get((*row, column, metric), []))
            for column in self.columns
            for metric in self.metrics
        ]
        return [*self._names(row), *cells]

    def _compared(self, row: tuple[str, str]) -> list[str]:
        cells = []
        for column in self.columns:
            found = self.differences.get((*row, column))
            mean, low, high = (100 * value for value in found) if found else (math.nan,) * 3
            cells.append("–" if math.isnan(mean) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        return [*self._names(row), *cells]

    def _printed(self, row: tuple[str, str]) -> list[str]:
        cells = ["–" if value is None else f"{value}" for value in self.published[row]]
        return [*self._names(row), *cells]

    def _names(self, row: tuple[str, str]) -> list[str]:
        return [*([row[0]] if self._grouped else []), row[1]]


def at_level(predictions: Predictions, level: str) -> Scored:
    """Faces, or videos by the mean of their scores, with what they are and belong to."""
    columns = predictions.columns
    count = len(predictions.labels)
    groups = columns.get("group", [""] * count)
    videos = predictions.keys(LEVELS["video"]) if "video" in columns else [()] * count
    paths = columns.get("path", [str(i) for i in range(count)])
    clusters: list[Hashable] = [
        ("group", group) if group else ("video", video) if video else ("face", place)
        for place, (group, video) in enumerate(zip(groups, videos, strict=True))
    ]
    if level == "face":
        rows = zip(paths, predictions.keys(SOURCE), predictions.labels.tolist(), strict=True)
        return Scored(predictions.labels, predictions.scores, list(rows), clusters)
    labels, scores, names = group_mean(
        predictions.labels, predictions.scores, videos, any_fake=True
    )
    of_video = dict(zip(videos, clusters, strict=True))
    return Scored(labels, scores, list(names), [of_video[name] for name in names])


def figures(predictions: Predictions, level: str, metrics: Sequence[str]) -> dict[str, float]:
    """Those figures of a table of predictions.

    Raises:
        ValueError: for an unknown one, naming what there is.
    """
    values = metrics_at(predictions, level).values
    unknown = [name for name in metrics if name not in values]
    if unknown:
        raise ValueError(f"there is no figure {unknown[0]!r}; there are {', '.join(values)}")
    return {name: float(values[name]) for name in metrics}


def paired_difference(
    first: Sequence[Scored],
    second: Sequence[Scored],
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean over seeds of ``AUC(first) - AUC(second)``, with its percentile bootstrap interval.

    Both answered about the same faces, so each resample of clusters is asked of both: what is
    common to them cancels. The seeds are those that were run: the interval is of the test set
    alone.

    Args:
        first, second: [K] each, of the same test set; pairs of one seed.
        samples: resamples.
        seed: of the draws.

    Returns:
        (mean, low, high); NaN where the AUC is undefined in most resamples.

    Raises:
        ValueError: if they are not of the same faces.
    """
    reference = first[0]
    if any(one.names != reference.names for one in (*first, *second)):
        raise ValueError("they were not asked of the same faces")
    mean = _difference(first, second, np.arange(len(reference.labels)))
    low, high = resampled_interval(
        lambda rows: _difference(first, second, rows), reference.clusters, samples, seed=seed
    )
    return mean, low, high


def _difference(first: Sequence[Scored], second: Sequence[Scored], rows: np.ndarray) -> float:
    gains = [
        auc(one.labels[rows], one.scores[rows]) - auc(other.labels[rows], other.scores[rows])
        for one, other in zip(first, second, strict=True)
    ]
    return float(np.mean(gains))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = 100 * float(np.mean(values))
    if math.isnan(mean):
        return "–"
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {100 * float(np.std(values, ddof=1)):.2f}"


def published_rows(published: Mapping[str, list]) -> dict[tuple[str, str], list]:
    """(group, name) -> figures, from labels such as "DF / MAT" and "MAT"."""
    rows = {}
    for label, values in published.items():
        group, mark, name = label.partition(" / ")
        rows[(group, name) if mark else ("", group)] = list(values)
    return rows

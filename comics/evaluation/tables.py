"""Cross-dataset and cross-manipulation tables in the papers' layout, from result files.

A result file is JSON: ``{"method": ..., "train": ..., "test": ..., "figures": {name: value}}``,
figures 0 to 1, as ``tools/evaluate.py --report`` writes it; or a list of such objects. Rows are
what a model was trained on (and the method), columns are what it was tested on; a cell where both
are the same is intra-domain.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comics.evaluation.columns import read_json

LOWER_IS_BETTER = ("EER", "oLRP", "ECE", "LRP")
AVERAGE = "mean of others"


@dataclass(frozen=True)
class TestResult:
    """The figures of one model on one set: trained on ``train``, tested on ``test``."""

    __test__ = False  # the name is no test's

    method: str
    train: str
    test: str
    metrics: dict[str, float]
    source: str


@dataclass(frozen=True)
class CrossTable:
    """Figures by training set (and method) and test set.

    Attributes:
        rows: (train, method), in the order of their first appearance.
        tests: names of the test sets, likewise.
        metrics: names of the figures shown for each test set.
        cells: (train, method, test, metric) -> value 0 to 1; absent where there is no result.
    """

    rows: list[tuple[str, str]]
    tests: list[str]
    metrics: list[str]
    cells: dict[tuple[str, str, str, str], float]

    def mean_of_others(self, train: str, method: str, metric: str) -> float:
        """Mean over the test sets other than ``train``; NaN unless all of them have a value."""
        others = [test for test in self.tests if test != train]
        values = [self.cells.get((train, method, test, metric), math.nan) for test in others]
        return sum(values) / len(values) if values else math.nan

    def markdown(self) -> str:
        """x100; per training set and column the best is bold; intra-domain cells are in italics."""
        heading = ["Train", "Method"]
        heading += [f"{test} {metric}" for test in self.tests for metric in self.metrics]
        heading += [f"{AVERAGE} {metric}" for metric in self.metrics]
        lines = [heading, ["---", "---"] + ["---:"] * (len(heading) - 2)]
        for train, method in self.rows:
            cells = [self._text(train, method, t, m) for t in self.tests for m in self.metrics]
            means = [_cell(self.mean_of_others(train, method, m)) for m in self.metrics]
            lines.append([_escape(train), _escape(method), *cells, *means])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def csv(self) -> str:
        """One line per cell: train, method, test, metric, value (0 to 1, all digits)."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["train", "method", "test", "metric", "value"])
        writer.writerows([*key, repr(value)] for key, value in self.cells.items())
        return buffer.getvalue()

    def _text(self, train: str, method: str, test: str, metric: str) -> str:
        value = self.cells.get((train, method, test, metric), math.nan)
        text = _cell(value)
        rivals = [
            self.cells.get((other, name, test, metric), math.nan)
            for other, name in self.rows
            if other == train
        ]
        defined = [rival for rival in rivals if not math.isnan(rival)]
        choose = min if metric.startswith(LOWER_IS_BETTER) else max
        if len(defined) > 1 and value == choose(defined):
            text = f"**{text}**"
        return f"*{text}*" if train == test and not math.isnan(value) else text


def load_test_results(path: str | os.PathLike) -> list[TestResult]:
    """Read a result file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file and entry: missing fields, a figure that is no number.
    """
    content = read_json(path)
    entries = content if isinstance(content, list) else [content]
    return [_test_result(entry, f"{path}, entry {i}") for i, entry in enumerate(entries)]


def cross_table(
    results: Sequence[TestResult], metrics: Sequence[str] = ("AUC", "EER")
) -> CrossTable:
    """Arrange results; figures that a result does not have are left empty.

    Raises:
        ValueError: if there is no result, two for the same cell, or none has any of ``metrics``.
    """
    cells: dict[tuple[str, str, str, str], float] = {}
    sources: dict[tuple[str, str, str], str] = {}
    for result in results:
        place = (result.train, result.method, result.test)
        if place in sources:
            raise ValueError(
                f"{result.source} and {sources[place]} both hold {result.method} trained on "
                f"{result.train}, tested on {result.test}"
            )
        sources[place] = result.source
        cells |= {(*place, m): result.metrics[m] for m in metrics if m in result.metrics}
    if not cells:
        have = sorted({name for result in results for name in result.metrics})
        raise ValueError(f"no result has any of {list(metrics)}; they have {have}")
    return CrossTable(
        rows=list(dict.fromkeys((result.train, result.method) for result in results)),
        tests=list(dict.fromkeys(result.test for result in results)),
        metrics=list(metrics),
        cells=cells,
    )


def _test_result(entry: Any, where: str) -> TestResult:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be an object, got {type(entry).__name__}")
    missing = [key for key in ("method", "train", "test", "figures") if key not in entry]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}")
    metrics = entry["figures"]
    if not isinstance(metrics, Mapping):
        raise ValueError(f"{where}: 'figures' must be an object")
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{where}: {name} must be a number or null, got {value!r}")
    figures = {name: math.nan if v is None else float(v) for name, v in metrics.items()}
    method, train, test = (str(entry[key]) for key in ("method", "train", "test"))
    return TestResult(method, train, test, figures, where)


def percent(value: float | None, digits: int = 1, sign: str = "", undefined: str = "n/a") -> str:
    """A share in percent, without its sign, as tables show it; "" for None.

    Args:
        value: in [0, 1], or a difference of two; NaN where it is not defined.
        digits: after the point.
        sign: "+" shows it of positive values too.
        undefined: what NaN becomes.
    """
    if value is None:
        return ""
    return undefined if math.isnan(value) else f"{100 * value:{sign}.{digits}f}"


def _cell(value: float) -> str:
    return percent(value, digits=2, undefined="-")


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what would break it is escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(plain_text(cell) for cell in line) + " |" for line in lines)


def plain_text(text: str) -> str:
    """Text without what Markdown would take for a cell's end, a tag or a line's end."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

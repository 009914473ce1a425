"""Training curves from a ``metrics.jsonl``, as SVG whose text takes its colour from the page."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from comics.pages.svg_plots import COLOURS, DASHES, figure_svg, svg_style

ITERATION = "iteration"
LOSS_PREFIX = "loss/"
METRIC_PANELS = ("bbox/", "segm/")  # of the validation; other numbers are not drawn
PANEL_SIZE = (6.4, 3.4)  # inches
MAX_SERIES = len(COLOURS) * len(DASHES)

Record = Mapping[str, Any]


def read_curves(path: str | os.PathLike) -> list[Record]:
    """The records of a ``metrics.jsonl``: one JSON object a line, each with an "iteration".

    A last line that is cut off, as a killed run leaves it, is passed over.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the line that is not such an object.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record[ITERATION]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a record with an iteration") from None
        records.append(record)
    return records


def curve_panels(records: Sequence[Record]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Panel title -> series name -> (iteration, value) points; absent values are left out."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for name, value in record.items():
            title = _panel(name)
            if title is None or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            series = panels.setdefault(title, {}).setdefault(name.split("/", 1)[1], [])
            series.append((record[ITERATION], value))
    return {title: dict(itertools.islice(s.items(), MAX_SERIES)) for title, s in panels.items()}


def curves_svg(records: Sequence[Record]) -> str | None:
    """One panel for the losses and one per kind of validation metric; None if there is nothing."""
    panels = curve_panels(records)
    if not panels:
        return None
    with svg_style():
        figure = Figure(
            figsize=(PANEL_SIZE[0], PANEL_SIZE[1] * len(panels)),
            layout="constrained",
            facecolor="none",
        )
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axis, (title, series) in zip(axes, panels.items(), strict=True):
            _draw_panel(axis, title, series)
        return figure_svg(figure)


def _panel(name: str) -> str | None:
    if name.startswith(LOSS_PREFIX):
        return "Training losses"
    for prefix in METRIC_PANELS:
        if name.startswith(prefix):
            return f"Validation: {prefix.rstrip('/')}"
    return None


def _draw_panel(axis: Axes, title: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    looks = itertools.product(DASHES, COLOURS)
    for (name, points), (dash, colour) in zip(series.items(), looks, strict=False):
        marker = "o" if len(points) == 1 else None
        axis.plot(*zip(*points, strict=True), dash, color=colour, label=name, marker=marker)
    axis.set_facecolor("none")
    axis.set_title(title)
    axis.set_xlabel(ITERATION)
    axis.grid(alpha=0.25)
    legend = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    legend.set_in_layout(True)

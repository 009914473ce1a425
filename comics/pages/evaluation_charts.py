"""Charts of a report as SVG, whose text and axes take their colour from the page.

Series differ in colour and in dash or hatch, so nothing is told by colour alone.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from comics.evaluation import lrp
from comics.evaluation.classification import ReliabilityBin
from comics.evaluation.coco import RECALL_LEVELS, SIZES
from comics.evaluation.metrics import Metrics

# Okabe and Ito's palette: apart in the common kinds of colour blindness, legible on black and white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5568d", "#9a7b00", "#56a0d3")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx")
PLACEHOLDER = "#010203"  # replaced by currentColor: matplotlib knows no such colour
SIZE = (4.4, 3.5)  # inches: text stays legible at the width of a phone
WIDE = (9.0, 5.0)
LEGEND_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "frameon": False, "ncols": 2}
CURVE_THRESHOLDS = {0: "IoU 0.5", 5: "IoU 0.75"}  # position among the thresholds -> name


def precision_recall_chart(metrics: Metrics, mode: str) -> str:
    """Interpolated precision by recall of every class, at IoU 0.5 and 0.75."""

    def draw(axes: Axes) -> None:
        """A curve for each class and IoU."""
        precision = metrics.modes[mode].curves.precision[0]
        for category, name in enumerate(metrics.ground_truth.category_names):
            for (level, title), dash in zip(CURVE_THRESHOLDS.items(), DASHES, strict=False):
                values = precision[level, category]
                if values[0] < 0:
                    continue
                label = f"{name}, {title}: AP {100 * values.mean():.1f}"
                axes.plot(RECALL_LEVELS, values, dash, color=_colour(category), label=label)
        _unit_square(axes, "recall", "precision")
        _legend(axes)

    return _svg(draw, f"pr {mode}")


def roc_chart(labels: np.ndarray, scores: np.ndarray, title: str) -> str:
    """True by false positive rate; P(fake) above the threshold counts as positive."""
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=False)

    def draw(axes: Axes) -> None:
        """The curve, and that of a guess."""
        axes.plot(false_rate, true_rate, color=COLOURS[0], label=title)
        axes.plot([0, 1], [0, 1], ":", color=PLACEHOLDER, alpha=0.5, label="chance")
        _unit_square(axes, "false positive rate (real called fake)", "true positive rate")
        _legend(axes)

    return _svg(draw, "roc")


def reliability_chart(bins: Sequence[ReliabilityBin]) -> str:
    """Share of fakes by P(fake), and how many faces stand behind each bar."""

    def draw(axes: Axes) -> None:
        """The shares over bars of the counts."""
        filled = [b for b in bins if b.count]
        most = max(b.count for b in filled)
        for b in filled:
            width = b.high - b.low
            axes.bar(b.low, b.count / most, width, align="edge", color=PLACEHOLDER, alpha=0.12)
        axes.plot([0, 1], [0, 1], ":", color=PLACEHOLDER, alpha=0.6, label="perfectly calibrated")
        axes.plot(
            [b.probability for b in filled],
            [b.fraction for b in filled],
            "o-",
            color=COLOURS[1],
            label="share of fakes",
        )
        axes.bar(0, 0, color=PLACEHOLDER, alpha=0.12, label=f"faces (highest bar: {most})")
        _unit_square(axes, "P(fake)", "share of fakes")
        _legend(axes)

    return _svg(draw, "reliability")


def size_chart(metrics: Metrics, name: str = "AP") -> str:
    """A figure by size of face, for each mode (mean over classes)."""

    def draw(axes: Axes) -> None:
        """A group of bars for each size."""
        sizes = list(SIZES)
        for number, (mode, result) in enumerate(metrics.modes.items()):
            values = [result.overall[name + suffix] for suffix in SIZES.values()]
            _bars(axes, values, number, len(metrics.modes), mode)
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_ylabel(f"{name} x100")
        axes.set_ylim(0, 110)
        axes.set_yticks(range(0, 101, 20))
        _legend(axes)

    return _svg(draw, f"size {name}")


def component_chart(metrics: Metrics, mode: str) -> str:
    """What localisation, false positives and missed faces add to each class's oLRP, by size."""

    def draw(axes: Axes) -> None:
        """A bar for each class and size that has faces."""
        truth, result = metrics.ground_truth, metrics.modes[mode]
        places, labels = [], []
        for category, (number, name) in enumerate(
            zip(truth.category_ids.tolist(), truth.category_names, strict=True)
        ):
            for area, (size, suffix) in enumerate(SIZES.items()):
                values = result.per_class[number]
                place, false, missed = (values[part + suffix] for part in lrp.COMPONENTS[1:])
                count = int(result.matches.counted[area, category])
                parts = lrp.contributions(place, false, missed, count)
                if result.matches.counted[area, category] == 0:
                    continue
                if math.isnan(parts[0]):
                    parts = (0.0, 0.0, 1.0)  # no detection is right: every face is missed
                places.append(category * (len(SIZES) + 1) + area)
                labels.append(f"{name} {size}")
                _stack(axes, places[-1], parts, first=len(places) == 1)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.set_xlabel("oLRP x100 (lower is better)")
        axes.set_xlim(0, 105)
        if places:
            _legend(axes, ncols=3)

    return _svg(draw, f"components {mode}")


def robustness_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], metric: str, clean: float
) -> str:
    """One line per corruption, from mild to severe; the clean value is the dotted line."""

    def draw(axes: Axes) -> None:
        """The lines, and the clean value."""
        looks = itertools.product(DASHES, COLOURS)
        for (name, points), (dash, colour) in zip(series.items(), looks, strict=False):
            steps = range(1, len(points) + 1)
            values = [100 * value for _, value in points]
            axes.plot(steps, values, dash, marker="o", markersize=3, color=colour, label=name)
        axes.axhline(100 * clean, linestyle=":", color=PLACEHOLDER, label="clean")
        axes.set_xlabel("step of the corruption, from mild to severe")
        axes.set_ylabel(f"{metric} x100")
        axes.set_xticks(range(1, 1 + max((len(p) for p in series.values()), default=1)))
        _legend(axes, ncols=4)

    return _svg(draw, "robustness", WIDE)


def _stack(axes: Axes, place: float, parts: Sequence[float], first: bool) -> None:
    left = 0.0
    names = ("localisation", "false positives", "missed")
    for number, (part, name) in enumerate(zip(parts, names, strict=True)):
        axes.barh(
            place,
            100 * part,
            left=left,
            color=COLOURS[number],
            hatch=HATCHES[number],
            edgecolor="white",
            linewidth=0.4,
            label=name if first else None,
        )
        left += 100 * part
    axes.annotate(f"{left:.1f}", (left, place), (3, 0), textcoords="offset points", va="center")


def _bars(axes: Axes, values: Sequence[float], number: int, of: int, label: str) -> None:
    width = 0.8 / of
    for place, value in enumerate(values):
        x = place + (number - (of - 1) / 2) * width
        defined = value >= 0
        axes.bar(
            x,
            100 * value if defined else 0,
            width,
            color=_colour(number),
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="white",
            linewidth=0.4,
            label=label if place == 0 else None,
        )
        text = f"{100 * value:.1f}" if defined else "n/a"
        axes.annotate(
            text, (x, 100 * max(value, 0)), (0, 2), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)


def _legend(axes: Axes, ncols: int = 2) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(**(LEGEND_BELOW | {"ncols": ncols}), fontsize=9)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _svg(draw: Callable[[Axes], None], salt: str, size: tuple[float, float] = SIZE) -> str:
    style = {
        "svg.fonttype": "none",  # text stays text: readable, and in the page's colour
        "svg.hashsalt": salt,  # the same chart gives the same file
        "font.family": "sans-serif",
        "hatch.linewidth": 0.6,
        "axes.edgecolor": PLACEHOLDER,
        "axes.labelcolor": PLACEHOLDER,
        **{f"{part}.color": PLACEHOLDER for part in ("text", "xtick", "ytick")},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        draw(axes)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    text = buffer.getvalue().replace(PLACEHOLDER, "currentColor")
    text = text[text.index("<svg") :]  # without the XML prologue, which HTML does not take
    referenced = set(re.findall(r"#([\w-]+)", text))
    # Several charts share a page: ids that nothing refers to would be there twice
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referenced else "", text)

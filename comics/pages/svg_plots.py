"""Plots as SVG that suits any page: text stays text, and takes its colour from around it."""

from __future__ import annotations

import contextlib
import io
import warnings

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5568d", "#8a6d00")  # safe for the colour-blind
DASHES = ("-", "--", ":")
PLACEHOLDER = "#010203"  # replaced by currentColor: matplotlib knows no such colour


def svg_style() -> contextlib.AbstractContextManager:
    """What a figure for ``figure_svg`` is made, drawn and turned to text under."""
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",  # text stays text: readable, and in the page's colour
            "svg.hashsalt": "curves",  # the same curves give the same file
            "font.family": "sans-serif",
            "axes.edgecolor": PLACEHOLDER,
            **{f"{part}.color": PLACEHOLDER for part in ("text", "xtick", "ytick")},
            "axes.labelcolor": PLACEHOLDER,
        }
    )


def figure_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element, without the XML prologue, which HTML does not take."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Who shows the text chooses the font
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = buffer.getvalue().replace(PLACEHOLDER, "currentColor")
    return text[text.index("<svg") :]

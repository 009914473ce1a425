"""The plot of a video: P(fake) over time, a line per track, as SVG.

Real and forged tracks differ in their lines too, not by colour alone, and the colours stay apart
in the common kinds of colour blindness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from comics.pages.svg_plots import COLOURS, PLACEHOLDER, figure_svg, svg_style
from comics.structures import FAKE
from comics.video.track_verdicts import clock
from comics.video.tracks_file import Track

SIZE = (9.0, 3.2)  # inches
MAX_TRACKS = 10  # drawn: those that were seen longest, and the most forged one
MAX_POINTS = 400  # of a track; of more, the mean of each of so many intervals is drawn
SINGLE_POINT = 1
MARKERS = "os^Dv"  # of tracks after the colours have been used once
TITLE_LENGTH = 80  # characters


def timeline_svg(
    title: str,
    tracks: Sequence[Track],
    points: Callable[[int], np.ndarray],
    fake_threshold: float,
    lost_seconds: float,
) -> str:
    """An ``<svg>`` element.

    Args:
        title: of the plot; any text.
        tracks: of the video.
        points: number of a track -> [N, 3] seconds, P(fake), score.
        fake_threshold: drawn as a line.
        lost_seconds: a line is interrupted where a face was not seen for longer.
    """
    shown = select_tracks(tracks)
    with svg_style():
        figure = Figure(figsize=SIZE, layout="constrained", facecolor="none")
        axis = figure.subplots()
        axis.set_facecolor("none")
        axis.axhline(fake_threshold, color=PLACEHOLDER, linewidth=1, linestyle=":")
        for position, track in enumerate(shown):
            _draw_track(axis, position, track, points(track.track_id), lost_seconds)
        axis.set_ylim(-0.03, 1.03)
        axis.set_ylabel("P(fake)")
        axis.set_xlabel("time")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
        axis.grid(alpha=0.25)
        # Not parsed: a file name may hold what matplotlib takes for formulas
        axis.set_title(_shortened(title), parse_math=False)
        _add_legend(axis, len(tracks) - len(shown))
        return figure_svg(figure)


def select_tracks(tracks: Sequence[Track]) -> list[Track]:
    """The tracks that are drawn, at most ``MAX_TRACKS``, by number."""
    longest = sorted(tracks, key=lambda track: (-track.frames, track.track_id))[:MAX_TRACKS]
    if len(tracks) > MAX_TRACKS:
        top = max(tracks, key=lambda track: (track.fake_probability, track.frames))
        if top not in longest:
            longest[-1] = top
    return sorted(longest, key=lambda track: track.track_id)


def thin_out(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] points as at most ``MAX_POINTS``: means over intervals of equal length in time."""
    if len(times) <= MAX_POINTS:
        return times, values
    span = times[-1] - times[0]
    slots = np.minimum(((times - times[0]) / span * MAX_POINTS).astype(int), MAX_POINTS - 1)
    counts = np.bincount(slots, minlength=MAX_POINTS)
    filled = counts > 0
    means = [np.bincount(slots, weights=v, minlength=MAX_POINTS)[filled] for v in (times, values)]
    return means[0] / counts[filled], means[1] / counts[filled]


def _draw_track(
    axis: Axes, position: int, track: Track, points: np.ndarray, lost_seconds: float
) -> None:
    times, values = thin_out(points[:, 0], points[:, 1])
    # Intervals that are longer than the time in which a face is lost are no gaps
    spacing = np.median(np.diff(times)) if len(times) > 1 else 0.0
    gaps = np.flatnonzero(np.diff(times) > max(lost_seconds, 2 * spacing)) + 1
    round_number, colour = divmod(position, len(COLOURS))
    label = "fake" if track.label == FAKE else "real"
    alone = len(times) == SINGLE_POINT
    axis.plot(
        np.insert(times, gaps, np.nan),
        np.insert(values, gaps, np.nan),
        linestyle="--" if track.label == FAKE else "-",
        color=COLOURS[colour],
        marker=MARKERS[round_number % len(MARKERS)] if round_number or alone else None,
        markevery=max(1, len(times) // 20),
        label=f"Track {track.track_id}: {label}, P(fake) {track.fake_probability:.2f}",
    )


def _add_legend(axis: Axes, left_out: int) -> None:
    if left_out:
        axis.plot([], [], " ", label=f"and {left_out} more")
    if axis.get_legend_handles_labels()[0]:
        legend = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        legend.set_in_layout(True)
    else:
        axis.text(0.5, 0.5, "no face found", transform=axis.transAxes, ha="center", va="center")


def _shortened(text: str) -> str:
    return text if len(text) <= TITLE_LENGTH else "…" + text[1 - TITLE_LENGTH :]

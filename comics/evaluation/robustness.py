"""Any figure over a grid of corruptions and severities: JPEG, H.264, blur, noise, colour, ...

A condition changes an image and nothing else, so boxes and masks stay correct. Noise is drawn from
a generator that the image itself seeds: the same picture gets the same noise in every run.
Images are [H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import av
import numpy as np

from comics.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, jpeg
from comics.data.transforms import resize_image
from comics.evaluation.tables import percent

JPEG_QUALITIES = (75, 50, 20, 10)
H264_FACTORS = (23, 40)  # FaceForensics++' constant rate factors, c23 and c40
RESIZE_SHARES = (0.75, 0.5, 0.25)  # shrink to this share of each side and back
CLEAN = "clean"
EXTRA = {"jpeg": JPEG_QUALITIES, "h264": H264_FACTORS, "resize": RESIZE_SHARES}


@dataclass(frozen=True)
class Condition:
    """One cell of the grid.

    Attributes:
        name: of the corruption; ``CLEAN`` for none.
        level: severity 1 to 5, JPEG quality, H.264's crf, or the share of a side; 0 for clean.
    """

    name: str
    level: float

    @property
    def title(self) -> str:
        """Name and level."""
        return self.name if self.name == CLEAN else f"{self.name} {self.level:g}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The corrupted image, same size; its noise depends on ``image`` and the name alone."""
        if self.name == CLEAN:
            return image
        if self.name == "jpeg":
            return jpeg(image, int(self.level))
        if self.name == "h264":
            return h264(image, int(self.level))
        if self.name == "resize":
            return shrink_and_enlarge(image, self.level)
        seed = (zlib.crc32(np.ascontiguousarray(image).data), zlib.crc32(self.name.encode()))
        return corrupt(image, self.name, int(self.level), np.random.default_rng(seed))


def condition_names() -> list[str]:
    """What ``conditions`` knows: ``EXTRA``, then ``comics.data.corruptions``'."""
    return [*EXTRA, *(name for name in CORRUPTIONS if name not in EXTRA)]


def conditions(
    names: Sequence[str] | None = None, severities: Sequence[int] = SEVERITIES
) -> list[Condition]:
    """The grid, the clean condition first.

    Args:
        names: corruptions; None: all of ``condition_names``.
        severities: of those that have five; JPEG, H.264 and resizing have levels of their own.

    Raises:
        ValueError: for an unknown name or severity, listing the choices.
    """
    known = condition_names()
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no corruption named {unknown[0]!r}. Choices: {', '.join(known)}")
    wrong = [level for level in severities if level not in SEVERITIES]
    if wrong or not severities:
        raise ValueError(f"severities are among {SEVERITIES}, got {list(severities)}")
    grid = [Condition(CLEAN, 0)]
    for name in known if names is None else dict.fromkeys(names):
        levels = EXTRA.get(name, severities)
        grid += [Condition(name, level) for level in levels]
    return grid


def h264(image: np.ndarray, factor: int) -> np.ndarray:
    """One frame through x264 at a constant rate factor (0 to 51; higher is worse).

    Sides that are odd are extended by a line for 4:2:0 chroma, and cut again.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        # One thread: x264's output depends on their number
        options = {"crf": str(factor), "preset": "medium", "threads": "1"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = padded.shape[1], padded.shape[0], "yuv420p"
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    buffer.seek(0)
    with av.open(buffer, "r", format="h264") as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded[:height, :width]


def shrink_and_enlarge(image: np.ndarray, share: float) -> np.ndarray:
    """Resize each side to ``share`` of it, and back."""
    height, width = image.shape[:2]
    small = max(1, round(height * share)), max(1, round(width * share))
    return resize_image(resize_image(image, small), (height, width))


@dataclass(frozen=True)
class RobustnessTable:
    """Figures by condition.

    Attributes:
        conditions: (name, level), the clean one first.
        figures: one dict per condition, metric -> value, NaN where undefined.
        faults: conditions that could not be measured, and why.
    """

    conditions: list[tuple[str, float]]
    figures: list[dict[str, float]]
    faults: list[str]

    def series(self, metric: str) -> dict[str, list[tuple[float, float]]]:
        """Corruption -> (level, value) in the order of the grid."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for (name, level), values in zip(self.conditions, self.figures, strict=True):
            lines.setdefault(name, []).append((level, values.get(metric, math.nan)))
        return lines

    def rows(self, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Heading, and one row per condition: x100, each with its change from the clean one."""
        heading = ["Corruption", "Level"]
        heading += [text for name in metrics for text in (name, "change")]
        rows = []
        clean = self.figures[0] if self.figures else {}
        for (name, level), values in zip(self.conditions, self.figures, strict=True):
            row = [name, "" if name == CLEAN else f"{level:g}"]
            for metric in metrics:
                value, base = values.get(metric, math.nan), clean.get(metric, math.nan)
                row += [percent(value), "" if name == CLEAN else percent(value - base, sign="+")]
            rows.append(row)
        return heading, rows

    def markdown(self, metrics: Sequence[str]) -> str:
        """``rows`` as a Markdown table, and the faults."""
        heading, rows = self.rows(metrics)
        lines = [heading, ["---", "---"] + ["---:"] * (len(heading) - 2), *rows]
        text = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join(text + [f"\nnote: {fault}" for fault in self.faults])


def measure_grid(
    measure: Callable[[Condition], Mapping[str, float]], grid: Sequence[Condition]
) -> RobustnessTable:
    """Call ``measure`` for each condition; one that fails is reported and the others go on.

    Raises:
        ValueError: if the clean condition (the first) fails: there is nothing to compare with.
    """
    names, figures, faults = [], [], []
    for condition in grid:
        try:
            values = dict(measure(condition))
        except (ValueError, OSError) as error:
            if condition is grid[0]:
                raise
            faults.append(f"{condition.title} could not be measured: {error}")
            values = {}
        names.append((condition.name, condition.level))
        figures.append(values)
    return RobustnessTable(names, figures, faults)

"""Faces of clips from a file: what any other detector found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from comics.data.face_tracks import Box
from comics.data.json_files import read_json


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes from a JSON file: ``{clip: {frame: [[x0, y0, x1, y1], ...]}}``.

    Clips are named by their path below the root; frames are numbered from 0. Where a frame is not
    listed, the nearest that is counts; a clip that is not listed has no face.
    """

    path: str

    def __call__(self, clip: str, frames: Mapping[int, np.ndarray]) -> dict[int, list[Box]]:
        """See ``BoxSource``.

        Raises:
            ValueError: if the file is not such a file.
        """
        known = _read_boxes(self.path).get(clip, {})
        if not known:
            return {}
        listed = sorted(known)
        nearest = {p: min(listed, key=lambda frame: abs(frame - p)) for p in frames}
        return {position: known[frame] for position, frame in nearest.items()}


@lru_cache(maxsize=1)
def _read_boxes(path: str) -> dict[str, dict[int, list[Box]]]:
    try:
        content = read_json(path)
        return {
            clip: {int(n): [_four(box) for box in boxes] for n, boxes in frames.items()}
            for clip, frames in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of boxes: {error}") from error


def _four(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = map(float, box)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {list(box)} (x0, y0, x1, y1) has no area")
    return x0, y0, x1, y1

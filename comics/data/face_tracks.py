"""Joins the faces of single frames into tracks, one per person of a clip.

Boxes are (x0, y0, x1, y1) in pixels. Shape letters: N faces of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from comics.ops.boxes import box_iou

Box = tuple[float, float, float, float]


@dataclass
class FaceTrack:
    """One face through a clip: position of a frame -> its box there."""

    boxes: dict[int, Box] = field(default_factory=dict)

    @property
    def last(self) -> Box:
        """The box in the latest frame."""
        return self.boxes[max(self.boxes)]


def track_faces(
    frames: Mapping[int, Sequence[Box]], min_iou: float = 0.1, min_share: float = 0.5
) -> list[FaceTrack]:
    """All faces of a clip, the longest track first, then by place from left to right.

    Frame by frame, faces are given to the tracks that they overlap most (Hungarian algorithm on
    IoU); the others begin tracks. A track may miss frames.

    Args:
        frames: position -> boxes of the faces found there.
        min_iou: a face belongs to a track from this overlap with its last box on. Low, since
            sampled frames are far apart (decision).
        min_share: tracks of fewer than this share of the frames are dropped: false detections.
    """
    tracks: list[FaceTrack] = []
    for position in sorted(frames):
        boxes = [(float(a), float(b), float(c), float(d)) for a, b, c, d in frames[position]]
        free = set(range(len(boxes)))
        for track, number in _assign([t.last for t in tracks], boxes, min_iou):
            tracks[track].boxes[position] = boxes[number]
            free.discard(number)
        tracks += [FaceTrack({position: boxes[number]}) for number in sorted(free)]
    kept = [track for track in tracks if len(track.boxes) >= min_share * len(frames)]
    return sorted(kept, key=lambda track: (-len(track.boxes), track.last))


def _assign(tracks: Sequence[Box], boxes: Sequence[Box], min_iou: float) -> list[tuple[int, int]]:
    if not tracks or not boxes:
        return []
    iou = box_iou(torch.tensor(tracks).double(), torch.tensor(boxes).double()).numpy()
    overlap = np.where(iou >= min_iou, iou, 0.0)
    pairs = zip(*linear_sum_assignment(-overlap), strict=True)
    return [(int(t), int(b)) for t, b in pairs if overlap[t, b] > 0]

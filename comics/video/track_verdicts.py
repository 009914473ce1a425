"""From the verdicts on a face's frames to one on its track, and from tracks to one on the video.

A single frame may err: a blink, a blur, a cut. So a track's P(fake) is the trimmed mean of its
frames' logits, each weighted by its detection score: the lowest and the highest ``trim`` of the
weight are left out. One frame of a long track cannot flip it, whatever it says. A video is as
forged as its most forged track, among those that were seen in enough frames.

Every rule here is a decision of this project; the papers judge frames.

Shape letters: N frames of a track.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from comics.inference.verdict import VideoRule
from comics.ops.verdicts import LOGIT_MARGIN
from comics.structures import DOUBTS

RECENT_FRAMES = 500  # of a track that its verdict so far looks back on, so that it stays quick
MIN_WEIGHT = 1e-6  # a detection score of 0 would weigh nothing, and a track of such have no mean


def track_probability(
    probabilities: Sequence[float], scores: Sequence[float], trim: float
) -> float:
    """P(fake) of a track: the sigmoid of the trimmed, weighted mean of its frames' logits.

    With the frames in the order of their logits, each as long as its weight, the mean is taken of
    what lies between the shares ``trim`` and 1 - ``trim`` of the whole length. It does not depend
    on the order of the frames, never falls when one frame's P(fake) rises, and a frame that weighs
    at most ``trim`` of the track cannot move it beyond what the other frames say.

    Args:
        probabilities: [N] P(fake) of each frame, in [0, 1]; kept ``LOGIT_MARGIN`` from 0 and 1.
        scores: [N] detection scores, the weights, in [0, 1].
        trim: in [0, 0.5).

    Raises:
        ValueError: for no frame at all, or lengths that differ.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    weights = np.maximum(np.asarray(scores, dtype=np.float64), MIN_WEIGHT)
    if not len(p) or p.shape != weights.shape:
        raise ValueError(f"a track needs a P(fake) and a score a frame: {p.shape}, {weights.shape}")
    p = p.clip(LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    # Frames of equal P(fake) are put in the order of their weights, so that sums do not depend on
    # the order in which they came, down to the last bit
    order = np.lexsort((weights, p))
    logits, weights = np.log(p / (1 - p))[order], weights[order]
    ends = np.cumsum(weights)
    low, high = trim * ends[-1], (1 - trim) * ends[-1]
    kept = (np.minimum(ends, high) - np.maximum(ends - weights, low)).clip(min=0)
    return float(1 / (1 + np.exp(-np.dot(kept, logits) / kept.sum())))


def video_probability(
    probabilities: Sequence[float], frames: Sequence[int], min_frames: int
) -> float | None:
    """P(fake) of a video: the highest among the tracks that speak for it; None without a track.

    Args:
        probabilities: P(fake) of each track.
        frames: of each track, in how many analysed frames it was seen.
        min_frames: as in ``VideoRule``.
    """
    speaking = speaking_tracks(frames, min_frames)
    return max((probabilities[position] for position in speaking), default=None)


def speaking_tracks(frames: Sequence[int], min_frames: int) -> list[int]:
    """Positions of the tracks that speak for their video.

    Args:
        frames: of each track, in how many analysed frames it was seen.
        min_frames: as in ``VideoRule``.
    """
    needed = min(min_frames, max(frames, default=0))
    return [position for position, seen in enumerate(frames) if seen >= needed]


def track_doubts(
    probability: float, doubts: Sequence[int], scores: Sequence[float], rule: VideoRule
) -> int:
    """Why a track's verdict is unclear, as an entry of ``Faces.doubts``; 0: it is not.

    Nearness to the threshold is asked of the track's own P(fake); any other doubt counts where
    frames of more than half of the track's weight have it.

    Args:
        probability: P(fake) of the track.
        doubts, scores: [N] of its frames.
        rule: with the threshold and what is near to it.
    """
    near = 1 << DOUBTS.index("near_threshold")
    weights = np.maximum(np.asarray(scores, dtype=np.float64), MIN_WEIGHT)
    bits = np.asarray(doubts, dtype=np.int64)
    found = 0
    for place in range(len(DOUBTS)):
        bit = 1 << place
        if bit != near and weights[bits & bit > 0].sum() * 2 > weights.sum():
            found |= bit
    low, high = rule.fake_threshold - rule.below, rule.fake_threshold + rule.above
    return found | (near if low <= probability < high else 0)


def forged_moments(
    times: Sequence[float], probabilities: Sequence[float], fake_threshold: float, gap_s: float
) -> list[tuple[float, float]]:
    """When a forged track looks forged: (first, last) second of each moment, in order.

    A moment is a run of frames whose P(fake) reaches the threshold; runs that lie no further apart
    than ``gap_s`` are one, so that a blink between two frames does not cut it. A single frame is a
    moment without length.

    Args:
        times, probabilities: [N] of its analysed frames, in their order.
        fake_threshold: as in ``VideoRule``.
        gap_s: seconds.
    """
    moments: list[tuple[float, float]] = []
    for time_s, probability in zip(times, probabilities, strict=True):
        if probability < fake_threshold:
            continue
        if moments and time_s - moments[-1][1] <= gap_s:
            moments[-1] = (moments[-1][0], time_s)
        else:
            moments.append((time_s, time_s))
    return moments


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss; with a decimal where it is not whole."""
    sign, seconds = ("-" if seconds < 0 else ""), abs(round(seconds, 1))
    whole = math.floor(seconds)
    tenths = round(10 * (seconds - whole))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return sign + text + (f".{tenths}" if tenths else "")


class RunningVerdicts:
    """P(fake) of each track so far, over at most its ``RECENT_FRAMES`` last analysed frames.

    It is what an annotated video shows: steadier than one frame's. Tracks that have ended are
    forgotten, so memory does not grow with the length of a video.

    Args:
        trim: as in ``VideoRule``.
    """

    def __init__(self, trim: float) -> None:
        self._trim = trim
        self._frames: dict[int, deque[tuple[float, float]]] = {}

    def update(
        self,
        track_ids: Sequence[int],
        probabilities: Sequence[float],
        scores: Sequence[float],
        alive: Collection[int],
    ) -> list[float]:
        """P(fake) of each face's track, with this frame.

        Args:
            track_ids, probabilities, scores: of the N faces of the frame.
            alive: tracks that may still go on, those of the frame among them.
        """
        self._frames = {track: self._frames[track] for track in self._frames if track in alive}
        for track, probability, score in zip(track_ids, probabilities, scores, strict=True):
            seen = self._frames.setdefault(track, deque(maxlen=RECENT_FRAMES))
            seen.append((probability, score))
        found = []
        for track in track_ids:
            of_track, weights = zip(*self._frames[track], strict=True)
            found.append(track_probability(of_track, weights, self._trim))
        return found

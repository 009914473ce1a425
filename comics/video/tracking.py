"""Following faces from frame to frame: which face of this frame is which of the last.

The association is ByteTrack's (Zhang et al., ECCV 2022), by the library ``trackers``: a Kalman
filter predicts every track's box, and the assignment with the highest overlaps gives the faces of
a frame to the tracks. Positions alone count, not looks: after a cut, a face in the place of
another may inherit its track.

Every face is in a track, from its first frame on: the predictor has dropped uncertain faces before,
so ByteTrack's second round for these has nothing to do here.
"""

from __future__ import annotations

import numpy as np
from supervision import Detections
from trackers import ByteTrackTracker

from comics.inference.verdict import VideoRule
from comics.ops.boxes import scale_boxes
from comics.structures import Faces

POSITION = "position"  # of a face in its frame; the tracker returns faces in another order
NO_TRACK = -1  # the library's id of a track that is too young to have one
MIN_SIDE = 1e-3  # pixels; a box without area has no overlap, and an infinite aspect ratio


class FaceTracker:
    """Gives the faces of successive frames of one video the numbers of their tracks, from 1.

    Args:
        min_iou: a face belongs to a track only if it overlaps its predicted box this much.
        lost_seconds: a track that was not seen for longer has ended. One that was seen in the
            frame before has not, however long ago that was: frames may be far apart.

    Attributes:
        alive: numbers of the tracks that may still go on.
    """

    def __init__(self, min_iou: float, lost_seconds: float) -> None:
        self.alive: set[int] = set()
        self._lost_seconds = lost_seconds
        self._tracker = ByteTrackTracker(
            lost_track_buffer=int(1e9),  # how long a track lives is decided here, by time
            frame_rate=30.0,
            track_activation_threshold=0.0,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=min_iou,
            high_conf_det_threshold=0.0,
        )
        self._seen: dict[int, tuple[int, float]] = {}  # track -> number of the frame, and its time
        self._frame = 0
        self._next = 1
        self._size: tuple[int, int] | None = None  # of the first frame: tracks are in its pixels

    @classmethod
    def from_rule(cls, rule: VideoRule) -> FaceTracker:
        """A tracker for one video."""
        return cls(min_iou=rule.track_iou, lost_seconds=rule.lost_seconds)

    def update(self, faces: Faces, time_s: float) -> list[int]:
        """The number of each face's track, in the order of ``faces``.

        Args:
            faces: of the next analysed frame, in any order, with scores; its size may differ from
                the frames' before.
            time_s: seconds; not before that of the last frame.
        """
        self._frame += 1
        self._end_lost_tracks(time_s)
        boxes = self._boxes(faces)
        assert faces.scores is not None
        detections = Detections(
            xyxy=boxes,
            confidence=faces.scores.cpu().numpy().astype(np.float64),
            data={POSITION: np.arange(len(faces))},
        )
        found = self._tracker.update(detections) if len(faces) or self._tracker.tracks else None
        numbers = [NO_TRACK] * len(faces)
        starting = []
        if found is not None and len(faces):
            for position, number in zip(found.data[POSITION], found.tracker_id, strict=True):
                numbers[int(position)] = int(number)
                if number == NO_TRACK:
                    starting.append(int(position))
        self._number_new_tracks(starting, numbers)
        for number in numbers:
            self._seen[number] = (self._frame, time_s)
        self.alive = set(self._seen)
        return numbers

    def _end_lost_tracks(self, time_s: float) -> None:
        self._seen = {
            number: (frame, seen)
            for number, (frame, seen) in self._seen.items()
            if frame == self._frame - 1 or time_s - seen <= self._lost_seconds
        }
        tracks = self._tracker.tracks
        self._tracker.tracks = [track for track in tracks if track.tracker_id in self._seen]

    def _boxes(self, faces: Faces) -> np.ndarray:
        height, width = faces.image_size
        if self._size is None:
            self._size = (height, width)
        scaled = scale_boxes(faces.boxes.cpu(), self._size[1] / width, self._size[0] / height)
        boxes = scaled.double().numpy()
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + MIN_SIDE)
        return boxes

    def _number_new_tracks(self, positions: list[int], numbers: list[int]) -> None:
        """Give the tracks that start here their numbers at once, in the order of their faces.

        The library would do so at their second frame, and from a counter that all videos share.
        ``positions`` are their faces', in the order in which the tracks were made.
        """
        tracks = [track for track in self._tracker.tracks if track.tracker_id == NO_TRACK]
        pairs = sorted(zip(positions, tracks, strict=True), key=lambda pair: pair[0])
        for position, track in pairs:
            track.tracker_id = numbers[position] = self._next
            self._next += 1

"""The tracks of a video: kept on disk while it is read, then written as ``videos/<name>.json``.

Its layout (``tracks.schema.json`` beside this file is its JSON schema)::

    {"schema_version": "2.1",
     "file_name", "width", "height",
     "frames":           frames decoded, of the part of the video that was looked at,
     "analysed_frames",
     "duration_s":       seconds from the start of that part to the end of its last frame,
     "selection":        {"stride", "max_fps", "start_s", "end_s"}: the part, and what was analysed,
     "verdict":          "no_face_found", "no_forgery_found", "unclear", "forged_face_found",
     "fake_probability": of the video; null without a face,
     "aggregation":      the rule: see comics.video.track_verdicts,
     "tracks": [{"track_id", "label": "Real" | "Fake", "verdict": "real" | "fake" | "unclear",
                 "unclear_because" (of the last alone), "fake_probability", "first_time_s",
                 "last_time_s", "forged_frames": how many of its frames look forged alone,
                 "forged_moments": [[first, last second], ...] of a forged one, else [],
                 "evidence": the frame that is shown for it: see comics.video.track_evidence,
                 and, of each frame where it was seen, "frames", "times_s",
                 "boxes": [[x, y, width, height], ...], "scores", "fake_probabilities"}, ...]}
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np
import torch

from comics.files import atomic_path
from comics.inference.verdict import VideoRule
from comics.ops.masks import bitmap_to_rle
from comics.runs.outputs import BOX_DECIMALS, SCORE_DECIMALS
from comics.structures import CLASS_NAMES, FAKE, REAL, VERDICTS, Faces, names_of_doubts
from comics.video.track_evidence import TrackEvidence
from comics.video.track_verdicts import (
    forged_moments,
    speaking_tracks,
    track_doubts,
    track_probability,
    video_probability,
)

COLUMNS = "track, frame, time_s, x, y, width, height, score, probability, doubts, place, mask"
# Of each track's most suspicious frame: its size, and the mask as JSON
PEAK_COLUMNS = (
    "track PRIMARY KEY, frame, time_s, rows, columns, x, y, width, height, probability, mask"
)
FETCHED = 100  # rows read at once
SCHEMA_VERSION = "2.1"  # of a tracks file
AGGREGATION = "trimmed mean of logits, weighted by score; the video is its highest track"


@dataclass(frozen=True)
class Track:
    """A face through a video.

    Attributes:
        track_id: its number, from 1.
        label: real (0) or fake (1).
        fake_probability: by ``track_probability``.
        frames: analysed frames in which it was seen.
        first_time_s, last_time_s: seconds since the video's first frame.
        doubts: why its verdict is unclear, as an entry of ``Faces.doubts``; 0: it is not.
        forged_frames: of its frames, those whose own P(fake) reaches the threshold.
        forged_moments: first and last second of each moment in which it looks forged; none where
            the track is not called forged.
        evidence: the frame that is shown for it; None: not known.
    """

    track_id: int
    label: int
    fake_probability: float
    frames: int
    first_time_s: float
    last_time_s: float
    doubts: int = 0
    forged_frames: int = 0
    forged_moments: tuple[tuple[float, float], ...] = ()
    evidence: TrackEvidence | None = None

    @property
    def verdict(self) -> str:
        """One of ``comics.structures.VERDICTS``."""
        return VERDICTS[2] if self.doubts else VERDICTS[self.label]

    def entry(self) -> dict[str, object]:
        """What results say of it; JSON."""
        return {
            "track_id": self.track_id,
            "label": CLASS_NAMES[self.label],
            "verdict": self.verdict,
            **({"unclear_because": list(names_of_doubts(self.doubts))} if self.doubts else {}),
            "fake_probability": round(self.fake_probability, SCORE_DECIMALS),
            "first_time_s": self.first_time_s,
            "last_time_s": self.last_time_s,
            "seen_frames": self.frames,
            "forged_frames": self.forged_frames,
            "forged_moments": [list(moment) for moment in self.forged_moments],
            **({} if self.evidence is None else {"evidence": self.evidence.entry()}),
        }


class TrackRecorder:
    """Takes the faces of a video frame by frame; a context manager.

    They lie in a temporary database on disk, so memory does not grow with the length of the video.

    Args:
        rule: how tracks and the video are judged.
        keep_masks: keep the masks of faces too, for ``faces``.
    """

    def __init__(self, rule: VideoRule, keep_masks: bool = False) -> None:
        self._rule, self._keep_masks = rule, keep_masks
        self._database = sqlite3.connect("")  # a temporary file, gone with the connection
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"CREATE TABLE faces ({COLUMNS})")
        self._database.execute(f"CREATE TABLE peaks ({PEAK_COLUMNS})")
        self._highest: dict[int, float] = {}  # P(fake) of each track

    def __enter__(self) -> TrackRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, frame: int, time_s: float, faces: Faces, track_ids: Sequence[int]) -> None:
        """Add the faces of an analysed frame.

        Args:
            frame: its index; rising.
            time_s: seconds since the video's first frame.
            faces: with ``scores`` and ``fake_probability``.
            track_ids: the track of each.

        Raises:
            OSError: if the disk is full.
        """
        doubts = [0] * len(faces) if faces.doubts is None else faces.doubts.tolist()
        assert faces.scores is not None and faces.fake_probability is not None
        masks: list[bytes | None] = [None] * len(faces)
        if self._keep_masks and faces.masks is not None:
            masks = [_packed(mask) for mask in faces.masks]
        told = zip(
            track_ids,
            faces.boxes.tolist(),
            faces.scores.tolist(),
            faces.fake_probability.tolist(),
            doubts,
            masks,
            strict=True,
        )
        rows = [
            (track, frame, time_s, x0, y0, x1 - x0, y1 - y0, score, probability, doubt, place, mask)
            for place, (track, (x0, y0, x1, y1), score, probability, doubt, mask) in enumerate(told)
        ]
        marks = ",".join("?" * len(COLUMNS.split(",")))
        with _disk_errors():
            self._database.executemany(f"INSERT INTO faces VALUES ({marks})", rows)
        for row in rows:
            self._note_peak(row, faces)

    def _note_peak(self, row: tuple, faces: Faces) -> None:
        """Keep a face (a row of ``COLUMNS``) where its track looked less forged before."""
        track, frame, time_s, *box, _, probability, _, place, _ = row
        if probability <= self._highest.get(track, -1.0):
            return
        self._highest[track] = probability
        mask = None if faces.masks is None else json.dumps(bitmap_to_rle(faces.masks[place]))
        values = (track, frame, time_s, *faces.image_size, *box, probability, mask)
        with _disk_errors():
            marks = ",".join("?" * len(values))
            self._database.execute(f"INSERT OR REPLACE INTO peaks VALUES ({marks})", values)

    def tracks(self) -> list[Track]:
        """Every track with its verdict, by number."""
        with _disk_errors():
            self._database.execute("CREATE INDEX IF NOT EXISTS by_track ON faces (track, frame)")
            spans = self._database.execute(
                "SELECT track, COUNT(*), MIN(time_s), MAX(time_s) FROM faces GROUP BY track"
            ).fetchall()
        return [self._track(*span) for span in spans]

    def faces(
        self, frame: int, size: tuple[int, int], tracks: Mapping[int, Track]
    ) -> tuple[Faces, list[int]]:
        """The faces of an analysed frame as they came, but with their tracks' verdicts.

        Args:
            frame: its index.
            size: (H, W) of it.
            tracks: of the video, by number.

        Returns:
            The faces, with masks if these were kept, and the number of each face's track.
        """
        with _disk_errors():
            self._database.execute("CREATE INDEX IF NOT EXISTS by_frame ON faces (frame, place)")
            rows = self._database.execute(
                "SELECT track, x, y, width, height, score, mask FROM faces "
                "WHERE frame = ? ORDER BY place", (frame,)
            ).fetchall()  # fmt: skip
        if not rows:
            return Faces.empty(size), []
        numbers, x, y, width, height, scores, masks = zip(*rows, strict=True)
        of_faces = [tracks[number] for number in numbers]
        corners = np.array([x, y, x, y]) + np.array([[0] * len(x)] * 2 + [width, height])
        faces = Faces(
            boxes=torch.from_numpy(corners.T.astype(np.float32)),  # those that were found, exactly
            image_size=size,
            labels=torch.tensor([track.label for track in of_faces]),
            scores=torch.tensor(scores),
            masks=None if masks[0] is None else torch.stack([_unpacked(m, size) for m in masks]),
            fake_probability=torch.tensor([track.fake_probability for track in of_faces]),
            doubts=torch.tensor([track.doubts for track in of_faces]),
        )
        return faces, list(numbers)

    def points(self, track_id: int) -> np.ndarray:
        """[N, 3] float64 of a track's frames: seconds, P(fake), detection score."""
        return np.array(list(self._rows(track_id, "time_s, probability, score"))).reshape(-1, 3)

    def video_probability(self, tracks: Sequence[Track]) -> float | None:
        """P(fake) of the video; None without a track."""
        return video_probability(
            [track.fake_probability for track in tracks],
            [track.frames for track in tracks],
            self._rule.min_frames,
        )

    def video_verdicts(self, tracks: Sequence[Track]) -> list[str]:
        """The verdicts of the tracks that speak for the video."""
        speaking = speaking_tracks([track.frames for track in tracks], self._rule.min_frames)
        return [tracks[position].verdict for position in speaking]

    def write(
        self, path: str | os.PathLike, header: Mapping[str, object], tracks: Sequence[Track]
    ) -> None:
        """Write the file, atomically and without holding a track in memory.

        Args:
            path: of the file.
            header: what comes before "aggregation".
            tracks: as ``tracks()`` returns them.

        Raises:
            OSError: if it cannot be written.
        """
        rule = self._rule
        aggregation = {
            "method": AGGREGATION,
            "trim": rule.trim,
            "min_frames": rule.min_frames,
            "fake_threshold": rule.fake_threshold,
            "unclear_below": rule.below,
            "unclear_above": rule.above,
            "track_iou": rule.track_iou,
            "lost_seconds": rule.lost_seconds,
        }
        head = {"schema_version": SCHEMA_VERSION, **header, "aggregation": aggregation}
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8") as document,
            _disk_errors(),
        ):
            document.write(json.dumps(head, allow_nan=False)[:-1] + ',\n"tracks": [')
            for position, track in enumerate(tracks):
                document.write(",\n" if position else "\n")
                self._write_track(document, track)
            document.write("]}\n")

    def _track(self, track_id: int, frames: int, first: float, last: float) -> Track:
        times, probabilities, scores = self.points(track_id).T
        rule = self._rule
        probability = track_probability(probabilities, scores, rule.trim)
        label = FAKE if probability >= rule.fake_threshold else REAL
        doubts = track_doubts(
            probability, [row[0] for row in self._rows(track_id, "doubts")], scores, rule
        )
        forged = int((probabilities >= rule.fake_threshold).sum())
        track = Track(
            track_id, label, probability, frames, first, last, doubts, forged,
            evidence=self._evidence(track_id),
        )  # fmt: skip
        if track.verdict != VERDICTS[FAKE]:
            return track
        moments = forged_moments(
            times.tolist(), probabilities.tolist(), rule.fake_threshold, rule.lost_seconds
        )
        return replace(track, forged_moments=tuple(moments))

    def _evidence(self, track_id: int) -> TrackEvidence:
        """A track's most suspicious frame."""
        with _disk_errors():
            (row,) = self._database.execute("SELECT * FROM peaks WHERE track = ?", (track_id,))
        _, frame, time_s, rows, columns, x, y, width, height, probability, mask = row
        return TrackEvidence(
            frame, time_s, (rows, columns), (x, y, width, height), probability,
            None if mask is None else json.loads(mask),
        )  # fmt: skip

    def _write_track(self, document: IO[str], track: Track) -> None:
        head = track.entry()
        del head["seen_frames"]  # which is the length of the lists
        document.write(json.dumps(head)[:-1])
        for name, columns, decimals in (
            ("frames", "frame", None),
            ("times_s", "time_s", None),
            ("boxes", "x, y, width, height", BOX_DECIMALS),
            ("scores", "score", SCORE_DECIMALS),
            ("fake_probabilities", "probability", SCORE_DECIMALS),
        ):
            document.write(f', "{name}": [')
            for position, row in enumerate(self._rows(track.track_id, columns)):
                values = list(row) if decimals is None else [round(v, decimals) for v in row]
                document.write(", " if position else "")
                document.write(json.dumps(values if len(values) > 1 else values[0]))
            document.write("]")
        document.write("}")

    def _rows(self, track_id: int, columns: str) -> Iterator[tuple]:
        with _disk_errors():
            cursor = self._database.execute(
                f"SELECT {columns} FROM faces WHERE track = ? ORDER BY frame", (track_id,)
            )
            while rows := cursor.fetchmany(FETCHED):
                yield from rows


def _packed(mask: torch.Tensor) -> bytes:
    """A mask [H, W], a bit a pixel, compressed."""
    return zlib.compress(np.packbits(mask.cpu().numpy()).tobytes(), level=1)


def _unpacked(content: bytes, size: tuple[int, int]) -> torch.Tensor:
    """The reverse: [H, W] bool."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(content), np.uint8), count=size[0] * size[1])
    return torch.from_numpy(bits.reshape(size)).bool()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Faults of the database are those of the disk that it lies on."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"the temporary file of a video's tracks: {error}") from error

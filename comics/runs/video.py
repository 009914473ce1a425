"""The video part of a run: one file, from its frames to its status.

The annotated video shows of each face the number of its track, and its track's verdict so far:
steadier than that of the frame, which is in the results. The video's verdict is that of its
tracks, so one frame alone does not make a video forged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from comics.files import write_bytes
from comics.inference.contract import ImagePredictor
from comics.inference.draw import draw_faces
from comics.inference.files import refuse_links
from comics.inference.verdict import VideoRule
from comics.pages.timeline import timeline_svg
from comics.runs.inputs import InputFile
from comics.runs.outputs import (
    FAILED,
    OK,
    PARTIAL,
    SCORE_DECIMALS,
    FileStatus,
    verdict_of,
)
from comics.structures import FAKE, REAL, Faces
from comics.video.frames import Frame, Selection
from comics.video.source import LiveSource
from comics.video.stream import VideoError, VideoReport, process_video
from comics.video.track_verdicts import RunningVerdicts, track_doubts
from comics.video.tracking import FaceTracker
from comics.video.tracks_file import TrackRecorder

TIME_DECIMALS = 6  # seconds

# (frame with its image, its faces, the number of each face's track), in the order of the frames
AddFrame = Callable[[Frame, Faces, Sequence[int]], object]


@dataclass(frozen=True)
class VideoOptions:
    """How videos are gone through.

    Attributes:
        batch_size: frames that go through the model together.
        stride: every ``stride``-th frame is analysed.
        max_fps: of these, at most so many a second of the video; None: no limit.
        start_s, end_s: the part of the video that is looked at, in seconds since its start; None:
            to its end.
        rule: how faces are followed, and how frames become verdicts on tracks and the video.
    """

    batch_size: int = 4
    stride: int = 1
    max_fps: float | None = None
    start_s: float = 0.0
    end_s: float | None = None
    rule: VideoRule = field(default_factory=VideoRule)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")
        self.selection  # noqa: B018  (refuses values out of range)

    @property
    def selection(self) -> Selection:
        """What of it the reader needs to know."""
        return Selection(self.stride, self.max_fps, self.start_s, self.end_s)


@dataclass(frozen=True)
class VideoOutputs:
    """Where the outputs of one video go: paths relative to ``folder``; None: not written.

    Attributes:
        folder: of the run's outputs.
        media: the annotated video (.mp4).
        tracks: its tracks (.json), see ``comics.video.tracks_file``.
        timeline: the plot of P(fake) over time (.svg).
    """

    folder: Path
    media: str | None = None
    tracks: str | None = None
    timeline: str | None = None


def run_video(
    file: InputFile,
    predictor: ImagePredictor,
    options: VideoOptions,
    add_frame: AddFrame,
    outputs: VideoOutputs,
    stop: Callable[[], bool] = lambda: False,
) -> FileStatus:
    """Process a video.

    Args:
        file: the video, or a live source.
        predictor: forms the verdicts.
        options: see ``VideoOptions``.
        add_frame: takes every analysed frame, in order; its ``time_s`` is rounded.
        outputs: where they go.
        stop: asked after each batch; once it says True, a live source ends there, as a whole one.

    Returns:
        What became of it; "failed" with a reason where it cannot be used, "partial" where not all
        of it could be read, or its annotated video not be written.

    Raises:
        OSError: if an output cannot be written.
    """
    with TrackRecorder(options.rule) as recorder:
        following = _Following(options.rule, recorder, add_frame)
        try:
            outcome = process_video(
                file.path if file.live is None else LiveSource(file.live),
                predictor.predict,
                following.on_frame,
                max_pixels=predictor.max_pixels,
                batch_size=options.batch_size,
                selection=options.selection,
                output=None
                if outputs.media is None
                else refuse_links(outputs.folder, outputs.media),
                annotate=_draw,
                stop=stop,
            )
        except VideoError as error:
            return FileStatus(file.name, "video", FAILED, reason=error.reason)
        return _finish(file, options, outputs, outcome, recorder, following.counts)


class _Following:
    """What is done with each analysed frame: faces are followed, noted and counted."""

    def __init__(self, rule: VideoRule, recorder: TrackRecorder, add_frame: AddFrame) -> None:
        self.counts: Counter = Counter()
        self._tracker = FaceTracker.from_rule(rule)
        self._verdicts = RunningVerdicts(rule.trim)
        self._rule = rule
        self._recorder, self._add_frame = recorder, add_frame

    def on_frame(self, frame: Frame, faces: Faces) -> tuple[Faces, list[str]]:
        """Returns what is drawn: the faces with their tracks' verdicts so far, and their names."""
        track_ids = self._tracker.update(faces, frame.time_s)
        frame = frame._replace(time_s=round(frame.time_s, TIME_DECIMALS))
        self._add_frame(frame, faces, track_ids)
        if not len(faces):
            self._verdicts.update([], [], [], self._tracker.alive)
            return faces, []
        self._recorder.add(frame.index, frame.time_s, faces, track_ids)
        verdicts = Counter(faces.verdicts)
        self.counts.update(
            faces=len(faces),
            forged=verdicts["fake"],
            unclear=verdicts["unclear"],
            with_faces=1,
            with_forged=int(verdicts["fake"] > 0),
        )
        assert faces.fake_probability is not None and faces.scores is not None  # a predictor's
        so_far = self._verdicts.update(
            track_ids, faces.fake_probability.tolist(), faces.scores.tolist(), self._tracker.alive
        )
        probability = torch.tensor(so_far)
        labels = torch.where(probability >= self._rule.fake_threshold, FAKE, REAL)
        names = [f"#{track}" for track in track_ids]
        shown = replace(faces, labels=labels, fake_probability=probability)
        if faces.doubts is not None:  # a frame's own doubts but for nearness, which is the track's
            doubts = [
                track_doubts(*one, [1.0], self._rule)
                for one in zip(so_far, faces.doubts[:, None].tolist(), strict=True)
            ]
            shown = replace(shown, doubts=torch.tensor(doubts, dtype=torch.int64))
        return shown, names


def _draw(image: np.ndarray, shown: tuple[Faces, list[str]]) -> np.ndarray:
    faces, names = shown
    return draw_faces(image, faces, names=names)


def _finish(
    file: InputFile,
    options: VideoOptions,
    outputs: VideoOutputs,
    outcome: VideoReport,
    recorder: TrackRecorder,
    counts: Counter,
) -> FileStatus:
    """Judge the tracks and the video, and write what is told of them."""
    rule, tracks = options.rule, recorder.tracks()
    probability = recorder.video_probability(tracks)
    verdict = verdict_of(recorder.video_verdicts(tracks))
    if probability is not None:
        probability = round(probability, SCORE_DECIMALS)
    if outputs.tracks is not None:
        selection = asdict(options.selection)
        header = {
            "file_name": file.name,
            "width": outcome.width,
            "height": outcome.height,
            "frames": outcome.frames,
            "analysed_frames": outcome.analysed_frames,
            "duration_s": round(max(0.0, outcome.end_s - options.start_s), TIME_DECIMALS),
            "selection": selection,
            "verdict": verdict,
            "fake_probability": probability,
        }
        recorder.write(refuse_links(outputs.folder, outputs.tracks), header, tracks)
    if outputs.timeline is not None:
        svg = timeline_svg(
            file.name, tracks, recorder.points, rule.fake_threshold, rule.lost_seconds
        )
        write_bytes(refuse_links(outputs.folder, outputs.timeline), svg.encode("utf-8"))
    return FileStatus(
        file_name=file.name,
        kind="video",
        status=PARTIAL if outcome.fault or outcome.output_fault else OK,
        verdict=verdict,
        faces=counts["faces"],
        forged_faces=counts["forged"],
        unclear_faces=counts["unclear"],
        reason="; ".join(filter(None, (outcome.fault, outcome.note, outcome.output_fault))) or None,
        output=None if outcome.output_fault else outputs.media,
        frames=outcome.frames,
        analysed_frames=outcome.analysed_frames,
        frames_with_faces=counts["with_faces"],
        frames_with_forged_faces=counts["with_forged"],
        tracks=len(tracks),
        fake_probability=probability,
        timeline=outputs.timeline,
        tracks_file=outputs.tracks,
    )

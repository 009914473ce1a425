"""The video part of a run: one file, from its frames to its status.

One rule for every output: a face's verdict is that of its track, over all of its analysed frames,
and the video's is that of its tracks. So the annotated video is written after the last frame has
been judged, from the file read a second time. A live source cannot be read twice: there it shows
each track's verdict so far. What a single frame says alone is in the results. Heat maps and
stability are those of one frame of each track: see ``comics.runs.video_evidence``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from comics.files import write_bytes
from comics.inference.contract import HeatPredictor
from comics.inference.draw import draw_faces
from comics.inference.files import refuse_links
from comics.inference.verdict import VideoRule
from comics.runs.inputs import InputFile
from comics.runs.outputs import (
    FAILED,
    OK,
    PARTIAL,
    SCORE_DECIMALS,
    FileStatus,
    verdict_of,
)
from comics.runs.video_evidence import EvidenceOptions, add_evidence
from comics.structures import FAKE, REAL, Faces
from comics.video.frames import Frame, Selection
from comics.video.source import LiveSource
from comics.video.stream import (
    FRAMES_AHEAD,
    Progress,
    VideoError,
    VideoReport,
    annotate_video,
    process_video,
)
from comics.video.track_verdicts import RunningVerdicts, track_doubts
from comics.video.tracks_file import Track, TrackRecorder

TIME_DECIMALS = 6  # seconds
MAX_TOLD = 1_000  # tracks in results.json; the tracks file holds all
ANALYSED, ANNOTATED = "looked at", "annotated"  # what becomes of frames, as progress tells it

# (frame with its image, its faces, the number of each face's track), in the order of the frames
AddFrame = Callable[[Frame, Faces, Sequence[int]], object]
# (what becomes of its frames, how many are done, of about how many; None: nobody knows)
VideoProgress = Callable[[str, int, int | None], object]


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
    predictor: HeatPredictor,
    options: VideoOptions,
    add_frame: AddFrame,
    outputs: VideoOutputs,
    stop: Callable[[], bool] = lambda: False,
    evidence: EvidenceOptions = EvidenceOptions(),  # noqa: B008  (it is frozen)
    progress: VideoProgress = lambda what, done, total: None,
) -> FileStatus:
    """Process a video.

    Args:
        file: the video, or a live source.
        predictor: forms the verdicts.
        options: see ``VideoOptions``.
        add_frame: takes every analysed frame, in order; its ``time_s`` is rounded.
        outputs: where they go.
        stop: asked after each batch; once it says True, a live source ends there, as a whole one.
        evidence: what else is measured of each person.
        progress: told after each batch.

    Returns:
        What became of it; "failed" with a reason where it cannot be used, "partial" where not all
        of it could be read, or its annotated video not be written.

    Raises:
        OSError: if an output cannot be written.
    """
    media = None if outputs.media is None else refuse_links(outputs.folder, outputs.media)
    live = file.live is not None
    with TrackRecorder(options.rule, keep_masks=media is not None and not live) as recorder:
        following = _Following(options.rule, recorder, add_frame, draws=live and media is not None)
        try:
            outcome = process_video(
                file.path if file.live is None else LiveSource(file.live),
                predictor.predict,
                following.on_frame,
                max_pixels=predictor.max_pixels,
                batch_size=options.batch_size,
                selection=options.selection,
                output=media if live else None,
                annotate=_draw,
                stop=stop,
                progress=partial(progress, ANALYSED),
            )
        except VideoError as error:
            return FileStatus(file.name, "video", FAILED, reason=error.reason)
        tracks = recorder.tracks()
        if evidence.is_asked:
            tracks, note = add_evidence(
                file, predictor, recorder, tracks, evidence, options.selection, stop
            )
            outcome = _with_note(outcome, note)
        if media is not None and not live:
            outcome = _annotated(
                file, outcome, recorder, tracks, media, options, predictor.max_pixels, stop,
                partial(progress, ANNOTATED),
            )  # fmt: skip
        return _finish(file, options, outputs, outcome, recorder, tracks, following.counts)


def _annotated(
    file: InputFile,
    outcome: VideoReport,
    recorder: TrackRecorder,
    tracks: Sequence[Track],
    media: Path,
    options: VideoOptions,
    max_pixels: int,
    stop: Callable[[], bool],
    progress: Progress,
) -> VideoReport:
    """Write the annotated video; returns ``outcome`` with what there is to say of it."""
    by_number = {track.track_id: track for track in tracks}

    def drawn(frame: Frame) -> tuple[Faces, list[str]]:
        height, width = frame.image.shape[:2]
        faces, numbers = recorder.faces(frame.index, (height, width), by_number)
        return faces, _names(numbers)

    try:
        note, fault = annotate_video(
            file.path, drawn, output=media, annotate=_draw, max_pixels=max_pixels,
            selection=options.selection, ahead=FRAMES_AHEAD * options.batch_size, stop=stop,
            progress=progress,
        )  # fmt: skip
    except VideoError as error:  # it was read a moment ago
        note, fault = None, f"it cannot be read again, to be annotated: {error.reason}"
    return replace(_with_note(outcome, note), output_fault=fault)


def _with_note(outcome: VideoReport, note: str | None) -> VideoReport:
    return replace(outcome, note="; ".join(filter(None, (outcome.note, note))) or None)


class _Following:
    """What is done with each analysed frame: faces are followed, noted and counted."""

    def __init__(
        self, rule: VideoRule, recorder: TrackRecorder, add_frame: AddFrame, draws: bool
    ) -> None:
        from comics.video.tracking import FaceTracker  # its library takes a second to import

        self.counts: Counter = Counter()
        self._tracker = FaceTracker.from_rule(rule)
        self._verdicts = RunningVerdicts(rule.trim)
        self._rule = rule
        self._recorder, self._add_frame, self._draws = recorder, add_frame, draws

    def on_frame(self, frame: Frame, faces: Faces) -> tuple[Faces, list[str]] | None:
        """Returns what is drawn; None where nothing is drawn yet."""
        track_ids = self._tracker.update(faces, frame.time_s)
        frame = frame._replace(time_s=round(frame.time_s, TIME_DECIMALS))
        self._add_frame(frame, faces, track_ids)
        if len(faces):
            self._note(frame, faces, track_ids)
        return self._so_far(faces, track_ids) if self._draws else None

    def _note(self, frame: Frame, faces: Faces, track_ids: Sequence[int]) -> None:
        self._recorder.add(frame.index, frame.time_s, faces, track_ids)
        verdicts = Counter(faces.verdicts)
        self.counts.update(
            faces=len(faces),
            forged=verdicts["fake"],
            unclear=verdicts["unclear"],
            with_faces=1,
            with_forged=int(verdicts["fake"] > 0),
        )

    def _so_far(self, faces: Faces, track_ids: Sequence[int]) -> tuple[Faces, list[str]]:
        """The faces with their tracks' verdicts so far, and their names."""
        if not len(faces):
            self._verdicts.update([], [], [], self._tracker.alive)
            return faces, []
        assert faces.fake_probability is not None and faces.scores is not None  # a predictor's
        so_far = self._verdicts.update(
            track_ids, faces.fake_probability.tolist(), faces.scores.tolist(), self._tracker.alive
        )
        probability = torch.tensor(so_far)
        labels = torch.where(probability >= self._rule.fake_threshold, FAKE, REAL)
        shown = replace(faces, labels=labels, fake_probability=probability)
        if faces.doubts is not None:  # a frame's own doubts but for nearness, which is the track's
            doubts = [
                track_doubts(*one, [1.0], self._rule)
                for one in zip(so_far, faces.doubts[:, None].tolist(), strict=True)
            ]
            shown = replace(shown, doubts=torch.tensor(doubts, dtype=torch.int64))
        return shown, _names(track_ids)


def _names(track_ids: Sequence[int]) -> list[str]:
    return [f"#{track}" for track in track_ids]


def _draw(image: np.ndarray, shown: tuple[Faces, list[str]]) -> np.ndarray:
    faces, names = shown
    return draw_faces(image, faces, names=names)


def _finish(
    file: InputFile,
    options: VideoOptions,
    outputs: VideoOutputs,
    outcome: VideoReport,
    recorder: TrackRecorder,
    tracks: Sequence[Track],
    counts: Counter,
) -> FileStatus:
    """Judge the video, and write what is told of its tracks."""
    rule = options.rule
    probability = recorder.video_probability(tracks)
    verdict = verdict_of(recorder.video_verdicts(tracks))
    told = Counter(track.verdict for track in tracks)
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
        from comics.pages.timeline import timeline_svg  # matplotlib takes a second to import

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
        forged_tracks=told["fake"],
        unclear_tracks=told["unclear"],
        track_verdicts=tuple(track.entry() for track in tracks[:MAX_TOLD]),
        fake_probability=probability,
        timeline=outputs.timeline,
        tracks_file=outputs.tracks,
    )

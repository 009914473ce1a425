"""A whole run: files on disk to annotated media and the files of results.

A file that cannot be used is reported and skipped; the others are processed all the same. What is
finished is written to disk at once (``comics.runs.state``), so a run that was interrupted continues
when the same command is given again.

The folder of a run::

    results.json   every face, every file, which model judged and when: comics.runs.outputs
    results.csv    a line per face         files.csv   a line per input file
    media/         annotated pictures and videos, heat maps
    crops/         a picture per face, where asked for
    videos/        of each video its tracks and their timeline
    .comics/       what is finished, for continuing
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from comics.data.content import VIDEO_EXTENSIONS
from comics.data.custody.credentials import CredentialsReader
from comics.data.custody.facts import FileFacts, read_facts
from comics.data.images import ImageError
from comics.data.picture_parts import parts_left_out
from comics.inference.contract import FacePredictor
from comics.inference.draw import draw_faces
from comics.inference.files import FileOutputs, OutputNames, display_name, refuse_links
from comics.inference.heat_grids import heat_grids
from comics.inference.heat_maps import draw_heat_maps
from comics.inference.stability import Stability, measure_stability
from comics.pages.thumbnails import make_thumbnails
from comics.runs.batches import size_batches
from comics.runs.csv_files import (
    FACE_COLUMNS,
    FILE_COLUMNS,
    csv_table,
    face_row,
    file_row,
    frames_shown,
)
from comics.runs.decoding import Decoded, decode_ahead
from comics.runs.history import RunHistory
from comics.runs.inputs import ExpandedInputs, InputFile, file_fault, is_video
from comics.runs.messages import describe
from comics.runs.options import RunOptions
from comics.runs.outputs import (
    FAILED,
    OK,
    SCHEMA_VERSION,
    TOO_LITTLE_MEMORY,
    FileStatus,
    file_entry,
    results_file,
    verdict_of,
)
from comics.runs.pictures import CROPS_FOLDER, MEDIA_FOLDER, write_crops, write_picture
from comics.runs.records import FileRecord, ImageRecord, RunRecord
from comics.runs.state import HISTORY, FinishedFile, RunState, file_key, open_state
from comics.runs.video import MAX_TOLD, VideoOutputs, run_video
from comics.runs.video_evidence import OUT_OF_MEMORY, EvidenceOptions
from comics.structures import Faces, NotFiniteError
from comics.video.frames import Frame
from comics.video.pixel_shape import as_shown
from comics.video.stream import Stopped

VIDEOS_FOLDER = "videos"
ANIMATED_EXTENSIONS = frozenset((".gif", ".webp"))  # as often an animation as a picture
OUTPUT_FOLDERS = (MEDIA_FOLDER, CROPS_FOLDER, VIDEOS_FOLDER)
RESULTS_NAME, FACES_TABLE, FILES_TABLE = "results.json", "results.csv", "files.csv"

EXIT_OK, EXIT_SOME_FAILED = 0, 3
CHANGED = "it changed during the run: its SHA-256 and its verdict may be of different contents"


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        files: what became of each input, faults first, then in the order of the inputs.
        pending: inputs that are left, as the run was stopped.
        passed_over: what of the inputs was neither picture nor video, and why.
    """

    files: list[FileStatus]
    pending: int = 0
    passed_over: Sequence[tuple[Path, str]] = ()


def run_inference(
    predictor: FacePredictor,
    inputs: ExpandedInputs,
    options: RunOptions,
    report: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
    write: Callable[[RunRecord], object] | None = None,
    command: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    frames: Callable[[str, str, int, int | None], None] = lambda name, what, done, total: None,
) -> RunOutcome:
    """Process all inputs; returns what became of each, which is also in the results files.

    Files that an earlier run in the same folder has finished are not processed again, unless they
    have changed or their outputs are gone; those that failed are tried again.

    Args:
        predictor: forms the verdicts.
        inputs: files, and faults that were met in looking for them.
        options: see ``RunOptions``.
        report: takes one line of text per file, as it is finished.
        stop: asked between batches; once it says True, the results files are written with what is
            finished, and name the number of inputs that are left. A live source ends there.
        write: makes the outputs of the run's record; None: ``write_results`` into the folder.
        command: the command line that asked for the run, as it was typed; empty: none.
        progress: takes how many inputs are done, and of how many: once it is known what an earlier
            run has finished, and after each.
        frames: within a video, takes its name, what becomes of its frames, how many are done, and
            of about how many (None: not known).

    Raises:
        SettingsError: if the folder holds a run with other settings.
        OSError: if an output cannot be written. What is finished stays so, the results files are
            those of before.
    """
    settings = {
        "schema_version": SCHEMA_VERSION,
        "provenance": predictor.provenance,
        "options": options.settings(),
    }
    with (
        open_state(options.output, settings, options.overwrite, OUTPUT_FOLDERS) as state,
        CredentialsReader(options.trust) as credentials,
    ):
        history = RunHistory(state.folder / HISTORY, command)
        run = _Run(predictor, options, state, credentials, report, stop, progress, frames)
        done, pending = run.process(inputs)
        files: list[FileRecord] = [state.file_record(outcome) for outcome in done]
        passed_over = [each for each in inputs.passed_over if options.shard.owns_fault(each[0])]
        told = history.told(
            predictor.provenance.get("weights_sha256"),
            None if options.trust is None else options.trust.sha256,
        )
        record = RunRecord(predictor.provenance, files, pending, len(passed_over), told)
        if write is None:
            write_results(options.output, record)
        else:
            write(record)
        return RunOutcome([outcome.status for outcome in done], pending, passed_over)


def exit_code(files: Sequence[FileStatus]) -> int:
    """0 if every input was read whole, 3 if some failed or ended early."""
    return EXIT_OK if all(file.status == OK for file in files) else EXIT_SOME_FAILED


def write_results(output: Path, record: RunRecord, collect: RecordSink | None = None) -> None:
    """Write ``results.json`` and the tables: each appears whole, the JSON document last.

    Args:
        output: folder of the run.
        record: what they are made from; gone through once.
        collect: also takes every file and picture, as they come.

    Raises:
        OSError: if one cannot be written.
    """
    with (
        results_file(output / RESULTS_NAME, record.provenance, record.run) as document,
        csv_table(output / FILES_TABLE, FILE_COLUMNS) as files_table,
        csv_table(output / FACES_TABLE, FACE_COLUMNS) as faces_table,
    ):
        document.pending, document.passed_over = record.pending, record.passed_over
        for file in record.files:
            entry = file_entry(file.status)
            document.add_file(file.status)
            files_table.add(file_row(entry))
            if collect is not None:
                collect.add_file(entry)
            shown = frames_shown(entry)
            for one in file.images():
                document.add_texts(one.image_text, one.face_texts)
                image, faces = one.image, one.faces  # each is parsed on every access
                for face in faces:
                    place = (image.get("frame"), face.get("track_id"))
                    faces_table.add(face_row(image, face, shown.get(place)))
                if collect is not None:
                    collect.add_image(image, faces)


class RecordSink(Protocol):
    """Takes what a run's record holds, file by file."""

    def add_file(self, entry: Mapping[str, Any]) -> None:
        """An input file, as in ``files`` of results.json; what follows is of it."""

    def add_image(self, image: Mapping[str, Any], faces: Sequence[Mapping[str, Any]]) -> None:
        """A picture or frame of it: the entry, and those of its faces."""


@dataclass(frozen=True)
class _Job:
    """One input: its position among them, the file, where its outputs go, and what it is known by.

    ``key`` is of before the file is read: a file that changes meanwhile is not finished.
    ``earlier`` is what an earlier run made of it; its outputs are replaced.
    """

    position: int
    file: InputFile
    outputs: FileOutputs
    key: tuple | None
    is_video: bool
    earlier: FinishedFile | None


class _Picture(NamedTuple):
    """A picture that waits for its verdict: its job, [H, W, 3] uint8 RGB, and its file's facts."""

    job: _Job
    image: np.ndarray
    facts: FileFacts | None


class TrackPeaks:
    """The highest P(fake) of each track so far: frames that raise one are worth a thumbnail."""

    def __init__(self) -> None:
        self._highest: dict[int, float] = {}

    def rise(self, faces: Faces, track_ids: Sequence[int]) -> bool:
        """Take in a frame; whether any of its faces is more suspicious than its track was."""
        risen = False
        assert faces.fake_probability is not None  # a predictor's
        for track, probability in zip(track_ids, faces.fake_probability.tolist(), strict=True):
            if probability > self._highest.get(track, -1.0):
                self._highest[track] = probability
                risen = True
        return risen


class VideoPredictor:
    """A predictor for videos: ends them where the run is to stop, and makes do with less memory.

    Args:
        predictor: forms the verdicts.
        stop: asked before each batch.
    """

    def __init__(self, predictor: FacePredictor, stop: Callable[[], bool]) -> None:
        self.max_pixels = predictor.max_pixels
        self._predictor, self._stop = predictor, stop

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Faces of each image, one by one where memory is short; raises where the run stops."""
        if self._stop():
            raise Stopped
        try:
            return self._predictor.predict(images)
        except OUT_OF_MEMORY:
            if len(images) == 1:
                raise
            return [faces for image in images for faces in self._predictor.predict([image])]

    def heat_maps(self, image: np.ndarray, faces: Faces) -> tuple[torch.Tensor, torch.Tensor]:
        """The predictor's."""
        return self._predictor.heat_maps(image, faces)


class _Run:
    """One run: what is done, by position among the inputs."""

    def __init__(
        self,
        predictor: FacePredictor,
        options: RunOptions,
        state: RunState,
        credentials: CredentialsReader,
        report: Callable[[str], None],
        stop: Callable[[], bool],
        progress: Callable[[int, int], None],
        frames: Callable[[str, str, int, int | None], None],
    ) -> None:
        self._progress, self._total, self._frames = progress, 0, frames
        self._predictor, self._options, self._state = predictor, options, state
        self._credentials = credentials
        self._report, self._stop = report, stop
        self._model_size = getattr(predictor, "model_size", lambda size: size)
        self._done: dict[int, FinishedFile] = {}

    def process(self, inputs: ExpandedInputs) -> tuple[list[FinishedFile], int]:
        """Outcomes in the order of the inputs, faults first, and how many inputs are left."""
        shard = self._options.shard
        faults = [fault for fault in inputs.faults if shard.owns_fault(fault[0])]
        for position, (path, reason) in enumerate(faults, start=-len(faults)):
            self._fail(position, display_name(path), "unknown", reason)
        jobs = self._jobs(inputs.files)
        todo = [job for job in jobs if job.position not in self._done]
        self._total = len(faults) + len(jobs)
        self._progress(len(self._done), self._total)
        if len(todo) < len(jobs):
            before, left = len(jobs) - len(todo), len(todo)
            self._report(f"continued: {before} of {len(jobs)} files were finished, {left} are left")
        videos = self._pictures(todo)
        for job in videos:
            if self._stop():
                break
            self._video(job)
        done = [self._done[position] for position in sorted(self._done)]
        return done, len(faults) + len(jobs) - len(done)

    def _jobs(self, files: Sequence[InputFile]) -> list[_Job]:
        """The shard's inputs; those that are finished are done already.

        Names are given to the files of all shards, so that the outputs of shards can be put
        together.
        """
        names = OutputNames()
        for base in self._state.bases():
            for suffix in (".jpg", ".mp4"):
                names.reserve(base.with_name(base.name + suffix))
        bases = []
        for file in files:
            earlier = self._state.earlier(file)
            bases.append(_base_name(names, file) if earlier is None else earlier.base)
        jobs = []
        for position, (file, base) in enumerate(zip(files, bases, strict=True)):
            if not self._options.shard.owns_file(file):
                continue
            finished, earlier = self._state.finished(file), self._state.earlier(file)
            if finished is not None and self._is_intact(finished):
                self._done[position] = finished
            shows_video = finished is None and (file.live is not None or is_video(file.path))
            if finished is not None:
                shows_video = finished.status.kind == "video"
            elif earlier is None and not _fits_name(file, shows_video):
                base = _base_name(names, file, shows_video)  # its content is not what its name says
            outputs = FileOutputs(self._options.output, base)
            jobs.append(_Job(position, file, outputs, file_key(file), shows_video, earlier))
        return jobs

    def _is_intact(self, finished: FinishedFile) -> bool:
        return all((self._options.output / n).exists() for n in _files_of(finished.status))

    def _pictures(self, todo: Sequence[_Job]) -> list[_Job]:
        """Process the pictures; returns the videos among them, which come later."""
        jobs = {job.file: job for job in todo}
        videos: list[_Job] = []

        def pictures() -> Iterator[InputFile]:
            """The pictures, until the run is to stop; videos are set aside."""
            for job in todo:
                if self._stop():
                    return
                if job.is_video:
                    videos.append(job)
                else:
                    yield job.file

        def good(decoded: Iterator[Decoded]) -> Iterator[_Picture]:
            """Pictures that could be read; the others are noted as failed."""
            for file, image, facts in decoded:
                job = jobs[file]
                if isinstance(image, ImageError):
                    self._fail(job.position, file.name, "image", image.reason, job, facts)
                else:
                    yield _Picture(job, image, facts)

        threads, max_pixels = self._options.decoding_threads, self._predictor.max_pixels
        with contextlib.closing(
            decode_ahead(pictures(), max_pixels, threads, examine=self._facts)
        ) as decoded:
            batches = size_batches(
                good(decoded),
                lambda item: self._model_size(item.image.shape[:2]),
                self._options.batch_size,
                lambda item: item.image.nbytes,
            )
            for batch in batches:
                if self._stop():
                    break
                self._batch(batch)
        return videos

    def _facts(self, file: InputFile, image: np.ndarray | None) -> FileFacts | None:
        """The facts of an input; None of a live source, and of what is no regular file."""
        if file.live is not None or file_fault(file.path) is not None:
            return None
        return read_facts(file.path, image, self._credentials)

    def _batch(self, batch: Sequence[_Picture]) -> None:
        try:
            found = self._predictor.predict([picture.image for picture in batch])
        except (*OUT_OF_MEMORY, NotFiniteError) as error:
            if len(batch) > 1:
                for item in batch:
                    self._batch([item])
                return
            (job, image, facts), *_ = batch
            reason = f"{TOO_LITTLE_MEMORY} for its {image.shape[1]}x{image.shape[0]} pixels"
            if isinstance(error, NotFiniteError):
                reason = f"no verdict: {error}"
            self._fail(job.position, job.file.name, "image", reason, job, facts)
            return
        for picture, faces in zip(batch, found, strict=True):
            self._picture(picture, faces)

    def _picture(self, picture: _Picture, faces: Faces) -> None:
        job, image = picture.job, picture.image
        options, outputs, name = self._options, job.outputs, job.file.name
        verdicts = Counter(faces.verdicts)
        media = heat_map = grids = None
        if options.write_media:
            media = write_picture(outputs, MEDIA_FOLDER, "", draw_faces(image, faces))
        heat, no_heat = self._heat(image, faces)
        if heat is not None:
            grids = heat_grids(*heat)
            if options.heat_maps:
                drawn = draw_heat_maps(image, faces, *heat)
                heat_map = write_picture(outputs, MEDIA_FOLDER, ".heat", drawn)
        stability, no_stability = self._stability(image, faces)
        told = (parts_left_out(job.file.path), no_heat, no_stability)
        record = ImageRecord.of(
            name,
            faces,
            crops=write_crops(outputs, image, faces) if options.crops else None,
            stability=stability,
            heat_maps=grids,
            thumbnails=make_thumbnails(image, faces) if options.write_media else None,
        )
        self._state.add(record)
        status = FileStatus(
            name,
            "image",
            OK,
            verdict_of(verdicts),
            faces=len(faces),
            forged_faces=verdicts["fake"],
            unclear_faces=verdicts["unclear"],
            reason="; ".join(filter(None, told)) or None,
            output=media,
            heat_map=heat_map,
            facts=picture.facts,
        )
        self._finish(job, status)

    def _heat(
        self, image: np.ndarray, faces: Faces
    ) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, str | None]:
        """Heat and its windows, where asked for; None, with the reason where it was not made."""
        if not len(faces) or not (self._options.heat_maps or self._options.heat_in_results):
            return None, None
        try:
            return self._predictor.heat_maps(image, faces), None
        except OUT_OF_MEMORY:
            return None, "its heat map was not made: too little memory"

    def _stability(
        self, image: np.ndarray, faces: Faces
    ) -> tuple[list[Stability] | None, str | None]:
        """Of each face, where asked for; None with the reason where it could not be measured."""
        if not self._options.stability:
            return None, None
        try:
            return measure_stability(self._predictor.predict, image, faces), None
        except OUT_OF_MEMORY:
            return None, "its stability was not measured: too little memory"
        except NotFiniteError as error:
            return None, f"its stability was not measured: {error}"

    def _video(self, job: _Job) -> None:
        options, name, outputs = self._options, job.file.name, job.outputs
        peaks = TrackPeaks()

        def add_frame(frame: Frame, faces: Faces, track_ids: Sequence[int]) -> None:
            """Put an analysed frame into the record, and write the crops of its faces."""
            crops = None
            if options.crops:
                crops = write_crops(outputs, *as_shown(frame, faces), frame.index)
            shown = options.write_media and peaks.rise(faces, track_ids)
            self._state.add(
                ImageRecord.of(
                    name,
                    faces,
                    frame.index,
                    frame.time_s,
                    track_ids,
                    crops,
                    make_thumbnails(frame.image, faces) if shown else None,
                )
            )

        # A live source has no end but this one: what came until then counts
        is_live = job.file.live is not None
        predictor = VideoPredictor(self._predictor, (lambda: False) if is_live else self._stop)
        try:
            status = run_video(
                job.file,
                predictor,
                replace(options.video, batch_size=options.batch_size),
                add_frame,
                VideoOutputs(
                    folder=options.output,
                    media=outputs.name(MEDIA_FOLDER, ".mp4") if options.write_media else None,
                    tracks=outputs.name(VIDEOS_FOLDER, ".json") if options.tracks else None,
                    timeline=outputs.name(VIDEOS_FOLDER, ".timeline.svg")
                    if options.tracks
                    else None,
                ),
                self._stop,
                EvidenceOptions(
                    heat_maps=options.heat_maps or options.heat_in_results,
                    stability=options.stability,
                    pictures=outputs if options.heat_maps else None,
                    most_pictures=MAX_TOLD,
                ),
                partial(self._frames, name),
            )
        except Stopped:
            self._state.discard()
            return
        except OUT_OF_MEMORY:
            status = FileStatus(name, "video", FAILED, reason=f"{TOO_LITTLE_MEMORY} for its frames")
        except NotFiniteError as error:
            status = FileStatus(name, "video", FAILED, reason=f"no verdict: {error}")
        facts = self._facts(job.file, None)
        if status.status == FAILED:
            self._state.discard()
            self._fail(job.position, status.file_name, status.kind, status.reason or "", job, facts)
        else:
            self._finish(job, replace(status, facts=facts))

    def _finish(self, job: _Job, status: FileStatus) -> None:
        unchanged = job.key is not None and job.key == file_key(job.file)
        if job.key is not None and not unchanged:
            reason = "; ".join(filter(None, (status.reason, CHANGED)))
            status = replace(status, reason=reason, changed_during_run=True)
        before = self._outputs_of(job.earlier)
        finished = self._state.finish(job.key if unchanged else None, status, job.outputs.base)
        if before:
            self._remove(before - self._outputs_of(finished))
        self._done[job.position] = finished
        self._say(status)

    def _fail(
        self,
        position: int,
        name: str,
        kind: str,
        reason: str,
        job: _Job | None = None,
        facts: FileFacts | None = None,
    ) -> None:
        """Note that an input could not be used; outputs of what it was before go."""
        if job is not None and job.key is not None and self._state.finished(job.file) is None:
            self._remove(self._outputs_of(job.earlier))
        status = FileStatus(name, kind, FAILED, reason=reason, facts=facts)
        self._done[position] = FinishedFile(status, PurePath(), 0, 0, 0)
        self._say(status)

    def _say(self, status: FileStatus) -> None:
        self._report(describe(status))
        if self._total:
            self._progress(len(self._done), self._total)

    def _outputs_of(self, finished: FinishedFile | None) -> set[str]:
        """Files that were written of an input, relative to the folder."""
        if finished is None:
            return set()
        names: set[str | None] = set(_files_of(finished.status))
        if self._options.crops:
            images = self._state.file_record(finished).images()
            names.update(face.get("crop") for one in images for face in one.faces)
        return {name for name in names if name is not None}

    def _remove(self, names: set[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                refuse_links(self._options.output, PurePath(name).parent)
                (self._options.output / name).unlink(missing_ok=True)


def _files_of(status: FileStatus) -> Iterator[str]:
    """What was written of an input, but for crops: names relative to the folder."""
    for name in (status.output, status.heat_map, status.timeline, status.tracks_file):
        if name is not None:
            yield name
    for track in status.track_verdicts or ():
        if "picture" in track.get("evidence", {}):
            yield track["evidence"]["picture"]


def _is_named_video(file: InputFile) -> bool:
    """Whether an input is called like a video; only its content says whether it is one."""
    return file.live is not None or file.relative.suffix.lower() in VIDEO_EXTENSIONS


def _fits_name(file: InputFile, shows_video: bool) -> bool:
    """Whether the names that an input's outputs were given fit what it is."""
    if file.relative.suffix.lower() in ANIMATED_EXTENSIONS:
        return True
    return shows_video == _is_named_video(file)


def _base_name(names: OutputNames, file: InputFile, as_video: bool | None = None) -> PurePath:
    """The name of a file's outputs, without extension; dots in it would look like one.

    Args:
        names: that are taken.
        file: the input.
        as_video: whether it is a video; None: as its name says.
    """
    extension = file.relative.suffix.lower()
    suffixes: tuple[str, ...]
    if as_video is None and extension in ANIMATED_EXTENSIONS:
        suffixes = (".jpg", ".mp4")  # which of the two it is, is seen when it is opened
    elif _is_named_video(file) if as_video is None else as_video:
        suffixes = (".mp4",)
    else:
        suffixes = (".jpg",)
    stem = file.relative.stem.replace(".", "_")
    place = file.relative.with_name(f"{stem or '_'}.x")  # an extension, so that the stem is whole
    return names.claim(place, *suffixes).with_suffix("")

"""A whole run: files on disk to annotated media and the files of results.

A file that cannot be used is reported and passed over; the others are processed all the same. What
is finished is on disk at once (``comics.runs.state``), so a run that ends in whatever way
is continued by running it again.

The folder of a run::

    results.json   every face, every file, what said so: see comics.runs.outputs
    results.csv    a line per face         files.csv   a line per input file
    media/         annotated pictures and videos, heat maps
    crops/         a picture per face, where asked for
    videos/        of each video its tracks and their timeline
    .comics/       what is finished, for continuing
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import torch

from comics.data.images import ImageError
from comics.inference.contract import FacePredictor
from comics.inference.draw import draw_faces
from comics.inference.files import FileOutputs, OutputNames, display_name
from comics.inference.heat_maps import draw_heat_maps
from comics.runs.batches import size_batches
from comics.runs.csv_files import FACE_COLUMNS, FILE_COLUMNS, csv_table, face_row
from comics.runs.decoding import decode_ahead
from comics.runs.inputs import (
    ANIMATED_FORMATS,
    VIDEO_EXTENSIONS,
    ExpandedInputs,
    InputFile,
    is_video,
)
from comics.runs.messages import describe
from comics.runs.options import RunOptions
from comics.runs.outputs import (
    FAILED,
    OK,
    SCHEMA_VERSION,
    FileStatus,
    count_forged,
    file_entry,
    results_file,
    verdict_of,
)
from comics.runs.pictures import MEDIA_FOLDER, write_crops, write_picture
from comics.runs.state import FinishedFile, RunState, file_key, open_state
from comics.runs.video import VideoOutputs, run_video
from comics.structures import Faces
from comics.video.frames import Frame

VIDEOS_FOLDER = "videos"
RESULTS_NAME, FACES_TABLE, FILES_TABLE = "results.json", "results.csv", "files.csv"

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)

EXIT_OK, EXIT_SOME_FAILED = 0, 3


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        files: what became of each input, faults first, then in the order of the inputs.
        pending: inputs that are left, as the run was stopped.
    """

    files: list[FileStatus]
    pending: int = 0


def run_inference(
    predictor: FacePredictor,
    inputs: ExpandedInputs,
    options: RunOptions,
    report: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
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
    with open_state(options.output, settings, options.overwrite) as state:
        run = _Run(predictor, options, state, report, stop)
        done, pending = run.process(inputs)
        write_results(options.output, predictor.provenance, state, done, pending)
        return RunOutcome([outcome.status for outcome in done], pending)


def exit_code(files: Sequence[FileStatus]) -> int:
    """0 if every input was read whole, 3 if some failed or ended early."""
    return EXIT_OK if all(file.status == OK for file in files) else EXIT_SOME_FAILED


def write_results(
    output: Path,
    provenance: dict[str, object],
    state: RunState,
    done: Sequence[FinishedFile],
    pending: int,
) -> None:
    """Write ``results.json`` and the tables: each appears whole, the JSON document last.

    Args:
        output: folder of the run.
        provenance: of the predictor.
        state: holds the entries.
        done: outcomes, in the order in which they are listed.
        pending: inputs that are left.

    Raises:
        OSError: if one cannot be written.
    """
    with (
        results_file(output / RESULTS_NAME, provenance) as document,
        csv_table(output / FILES_TABLE, FILE_COLUMNS) as files_table,
        csv_table(output / FACES_TABLE, FACE_COLUMNS) as faces_table,
    ):
        document.pending = pending
        for outcome in done:
            document.add_file(outcome.status)
            files_table.add(file_entry(outcome.status))
            for image, faces in state.entries(outcome):
                document.add_entries(image, faces)
                for face in faces:
                    faces_table.add(face_row(image, face))


class _Stopped(Exception):
    """Ends a video at the wish of ``stop``."""


@dataclass(frozen=True)
class _Job:
    """One input: its position among them, the file, where its outputs go, and what it is known by.

    ``key`` is of before the file is read: a file that changes meanwhile is not finished.
    """

    position: int
    file: InputFile
    outputs: FileOutputs
    key: tuple | None


class _VideoPredictor:
    """A predictor for videos: ends them where the run is to stop, and makes do with less memory."""

    def __init__(self, predictor: FacePredictor, stop: Callable[[], bool]) -> None:
        self.max_pixels = predictor.max_pixels
        self._predictor, self._stop = predictor, stop

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Faces of each image, one by one where memory is short; raises where the run stops."""
        if self._stop():
            raise _Stopped
        try:
            return self._predictor.predict(images)
        except OUT_OF_MEMORY:
            if len(images) == 1:
                raise
            return [faces for image in images for faces in self._predictor.predict([image])]


class _Run:
    """One run: what is done, by position among the inputs."""

    def __init__(
        self,
        predictor: FacePredictor,
        options: RunOptions,
        state: RunState,
        report: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        self._predictor, self._options, self._state = predictor, options, state
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
        jobs = []
        for position, file in enumerate(files):
            finished = self._state.finished(file)
            base = _base_name(names, file) if finished is None else finished.base
            if not self._options.shard.owns_file(file):
                continue
            outputs = FileOutputs(self._options.output, base)
            jobs.append(_Job(position, file, outputs, file_key(file)))
            if finished is not None and self._is_intact(finished):
                self._done[position] = finished
        return jobs

    def _is_intact(self, finished: FinishedFile) -> bool:
        status = finished.status
        names = (status.output, status.heat_map, status.timeline, status.tracks_file)
        return all((self._options.output / name).exists() for name in names if name is not None)

    def _pictures(self, todo: Sequence[_Job]) -> list[_Job]:
        """Process the pictures; returns the videos among them, which come later."""
        jobs = {job.file: job for job in todo}
        videos: list[_Job] = []

        def pictures() -> Iterator[InputFile]:
            """The pictures, until the run is to stop; videos are set aside."""
            for job in todo:
                if self._stop():
                    return
                if job.file.live is not None or is_video(job.file.path):
                    videos.append(job)
                else:
                    yield job.file

        def good(decoded: Iterator) -> Iterator[tuple[_Job, np.ndarray]]:
            for file, image in decoded:
                if isinstance(image, ImageError):
                    self._fail(jobs[file].position, file.name, "image", image.reason)
                else:
                    yield jobs[file], image

        threads, max_pixels = self._options.decoding_threads, self._predictor.max_pixels
        with contextlib.closing(decode_ahead(pictures(), max_pixels, threads)) as decoded:
            batches = size_batches(
                good(decoded),
                lambda item: self._model_size(item[1].shape[:2]),
                self._options.batch_size,
                lambda item: item[1].nbytes,
            )
            for batch in batches:
                if self._stop():
                    break
                self._batch(batch)
        return videos

    def _batch(self, batch: Sequence[tuple[_Job, np.ndarray]]) -> None:
        try:
            found = self._predictor.predict([image for _, image in batch])
        except OUT_OF_MEMORY:
            if len(batch) > 1:
                for item in batch:
                    self._batch([item])
                return
            (job, image), *_ = batch
            reason = f"too little memory for its {image.shape[1]}x{image.shape[0]} pixels"
            self._fail(job.position, job.file.name, "image", reason)
            return
        for (job, image), faces in zip(batch, found, strict=True):
            self._picture(job, image, faces)

    def _picture(self, job: _Job, image: np.ndarray, faces: Faces) -> None:
        options, outputs, name = self._options, job.outputs, job.file.name
        forged = count_forged(faces)
        media = heat_map = None
        if options.write_media:
            media = write_picture(outputs, MEDIA_FOLDER, "", draw_faces(image, faces))
        if options.heat_maps and len(faces):
            drawn = draw_heat_maps(image, faces, *self._predictor.heat_maps(image, faces))
            heat_map = write_picture(outputs, MEDIA_FOLDER, ".heat", drawn)
        crops = write_crops(outputs, image, faces) if options.crops else None
        self._state.add_image(name, faces, crops=crops)
        verdict = verdict_of(len(faces), forged)
        status = FileStatus(
            name, "image", OK, verdict, len(faces), forged, output=media, heat_map=heat_map
        )
        self._finish(job, status)

    def _video(self, job: _Job) -> None:
        options, name, outputs = self._options, job.file.name, job.outputs

        def add_frame(frame: Frame, faces: Faces, track_ids: Sequence[int]) -> None:
            crops = write_crops(outputs, frame.image, faces, frame.index) if options.crops else None
            self._state.add_image(name, faces, frame.index, frame.time_s, track_ids, crops)

        # A live source has no end but this one: what came until then counts
        is_live = job.file.live is not None
        predictor = _VideoPredictor(self._predictor, (lambda: False) if is_live else self._stop)
        try:
            status = run_video(
                job.file,
                predictor,
                replace(options.video, batch_size=options.batch_size),
                add_frame,
                VideoOutputs(
                    folder=options.output,
                    media=outputs.name(MEDIA_FOLDER, ".mp4") if options.write_media else None,
                    tracks=outputs.name(VIDEOS_FOLDER, ".json"),
                    timeline=outputs.name(VIDEOS_FOLDER, ".timeline.svg"),
                ),
                self._stop,
            )
        except _Stopped:
            self._state.discard()
            return
        except OUT_OF_MEMORY:
            status = FileStatus(name, "video", FAILED, reason="too little memory for its frames")
        if status.status == FAILED:
            self._state.discard()
            self._fail(job.position, status.file_name, status.kind, status.reason)
        else:
            self._finish(job, status)

    def _finish(self, job: _Job, status: FileStatus) -> None:
        unchanged = job.key is not None and job.key == file_key(job.file)
        finished = self._state.finish(job.key if unchanged else None, status, job.outputs.base)
        self._done[job.position] = finished
        self._report(describe(status))

    def _fail(self, position: int, name: str, kind: str, reason: str) -> None:
        """Note that an input could not be used."""
        status = FileStatus(name, kind, FAILED, reason=reason)
        self._done[position] = FinishedFile(status, PurePath(), 0, 0, 0)
        self._report(describe(status))


def _base_name(names: OutputNames, file: InputFile) -> PurePath:
    """The name of a file's outputs, without extension; dots in it would look like one."""
    extension = file.relative.suffix.lower()
    if file.live is not None or extension in VIDEO_EXTENSIONS - ANIMATED_FORMATS.keys():
        suffixes = (".mp4",)
    elif extension in ANIMATED_FORMATS:  # which of the two it is, is seen when it is opened
        suffixes = (".jpg", ".mp4")
    else:
        suffixes = (".jpg",)
    stem = file.relative.stem.replace(".", "_")
    place = file.relative.with_name(f"{stem or '_'}.x")  # an extension, so that the stem is whole
    return names.claim(place, *suffixes).with_suffix("")

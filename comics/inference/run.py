"""A whole run: files on disk to annotated media and one results file.

A file that cannot be used is reported and passed over; the others are processed all the same.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

import av
import numpy as np
from PIL import Image
from torch import Tensor

from comics.data.images import ImageError, read_image
from comics.inference.draw import draw_faces
from comics.inference.files import OutputNames, display_name, write_bytes
from comics.inference.heat_maps import draw_heat_maps
from comics.inference.inputs import ExpandedInputs, InputFile, is_video
from comics.inference.outputs import (
    FAILED,
    OK,
    PARTIAL,
    FileStatus,
    ResultsWriter,
    count_forged,
    results_file,
    verdict_of,
)
from comics.inference.video import VideoError, process_video
from comics.inference.video_reader import Frame
from comics.structures import Faces

RESULTS_NAME = "results.json"
MEDIA_FOLDER = "media"
JPEG_QUALITY = 92  # of annotated pictures
JPEG_MAX_SIDE = 65_500  # pixels; the format's limit. Longer pictures are written as PNG
TIME_DECIMALS = 6  # seconds

EXIT_OK, EXIT_SOME_FAILED = 0, 3


class FacePredictor(Protocol):
    """What a run needs of ``comics.inference.predictor.Predictor``."""

    max_pixels: int
    provenance: dict[str, object]

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Verdicts of each [H, W, 3] uint8 RGB image."""

    def heat_maps(self, image: np.ndarray, faces: Faces) -> tuple[Tensor, Tensor]:
        """[N, h, w] heat of its faces and their windows; called if ``RunOptions.heat_maps``."""


@dataclass(frozen=True)
class RunOptions:
    """Where results go and how inputs are gone through.

    Attributes:
        output: folder of ``results.json`` and ``media/``; made if absent.
        batch_size: images or frames that go through the model together.
        stride: every ``stride``-th frame of a video is analysed.
        write_media: also write annotated pictures and videos.
        heat_maps: beside each annotated picture with faces, one of where they look forged; not of
            videos.

    Raises:
        ValueError: for a number below 1, or heat maps without media.
    """

    output: Path
    batch_size: int = 4
    stride: int = 1
    write_media: bool = True
    heat_maps: bool = False

    def __post_init__(self) -> None:
        if self.heat_maps and not self.write_media:
            raise ValueError("heat maps are media: they cannot be had without media")
        for name in ("batch_size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


def run_inference(
    predictor: FacePredictor,
    inputs: ExpandedInputs,
    options: RunOptions,
    report: Callable[[str], None] = print,
) -> list[FileStatus]:
    """Process all inputs; returns what became of each, which is also in the results file.

    Args:
        predictor: forms the verdicts.
        inputs: files, and faults that were met in looking for them.
        options: see ``RunOptions``.
        report: takes one line of text per file.

    Raises:
        OSError: if an output cannot be written; media written before stay, the results file does
            not appear.
    """
    with results_file(options.output / RESULTS_NAME, predictor.provenance) as results:
        run = _Run(predictor, options, results, report)
        for path, reason in inputs.faults:
            run.fail(path, "unknown", reason)
        for file in inputs.files:
            if is_video(file.path):
                run.finish_images()
                run.video(file)
            else:
                run.image(file)
        run.finish_images()
        return results.files


def exit_code(files: Sequence[FileStatus]) -> int:
    """0 if every input was read whole, 3 if some failed or ended early."""
    return EXIT_OK if all(file.status == OK for file in files) else EXIT_SOME_FAILED


class _Run:
    """The state of one run: the images that wait for a batch, and the names given out."""

    def __init__(
        self,
        predictor: FacePredictor,
        options: RunOptions,
        results: ResultsWriter,
        report: Callable[[str], None],
    ) -> None:
        self._predictor, self._options = predictor, options
        self._results, self._report = results, report
        self._names = OutputNames()
        self._waiting: list[tuple[InputFile, np.ndarray]] = []

    def image(self, file: InputFile) -> None:
        """Read an image; process the batch once it is full."""
        try:
            image = read_image(file.path, self._predictor.max_pixels)
        except ImageError as error:
            self.fail(file.path, "image", error.reason)
            return
        self._waiting.append((file, image))
        if len(self._waiting) == self._options.batch_size:
            self.finish_images()

    def finish_images(self) -> None:
        """Process the images that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        found = self._predictor.predict([image for _, image in waiting])
        for (file, image), faces in zip(waiting, found, strict=True):
            name = display_name(file.path)
            self._results.add_image(name, faces)
            forged = count_forged(faces)
            self._done(
                FileStatus(
                    file_name=name,
                    kind="image",
                    status=OK,
                    verdict=verdict_of(len(faces), forged),
                    faces=len(faces),
                    forged_faces=forged,
                    output=self._write_picture(file, draw_faces(image, faces), "")
                    if self._options.write_media
                    else None,
                    heat_map=self._write_heat_map(file, image, faces),
                )
            )

    def video(self, file: InputFile) -> None:
        """Process a video."""
        name, counts = display_name(file.path), Counter()

        def on_frame(frame: Frame, faces: Faces) -> None:
            time_s = round(frame.time_s, TIME_DECIMALS)
            self._results.add_image(name, faces, frame=frame.index, time_s=time_s)
            forged = count_forged(faces)
            counts.update(
                faces=len(faces), forged=forged, with_faces=len(faces) > 0, with_forged=forged > 0
            )

        output = self._claim(file, ".mp4") if self._options.write_media else None
        try:
            outcome = process_video(
                file.path,
                self._predictor.predict,
                on_frame,
                max_pixels=self._predictor.max_pixels,
                batch_size=self._options.batch_size,
                stride=self._options.stride,
                output=None if output is None else self._options.output / output,
                annotate=draw_faces,
            )
        except VideoError as error:
            self.fail(file.path, "video", error.reason)
            return
        except av.FFmpegError as error:
            self.fail(file.path, "video", f"the annotated video cannot be written: {error}")
            return
        self._done(
            FileStatus(
                file_name=name,
                kind="video",
                status=PARTIAL if outcome.fault else OK,
                verdict=verdict_of(counts["faces"], counts["forged"]),
                faces=counts["faces"],
                forged_faces=counts["forged"],
                reason="; ".join(filter(None, (outcome.fault, outcome.note))) or None,
                output=None if output is None else output.as_posix(),
                frames=outcome.frames,
                analysed_frames=outcome.analysed_frames,
                frames_with_faces=counts["with_faces"],
                frames_with_forged_faces=counts["with_forged"],
            )
        )

    def fail(self, path: Path, kind: str, reason: str) -> None:
        """Note that an input could not be used."""
        self._done(FileStatus(display_name(path), kind, FAILED, reason=reason))

    def _done(self, status: FileStatus) -> None:
        self._results.add_file(status)
        self._report(describe(status))

    def _write_heat_map(self, file: InputFile, image: np.ndarray, faces: Faces) -> str | None:
        if not self._options.heat_maps or not len(faces):
            return None
        heat, windows = self._predictor.heat_maps(image, faces)
        return self._write_picture(file, draw_heat_maps(image, faces, heat, windows), ".heat")

    def _write_picture(self, file: InputFile, picture: np.ndarray, mark: str) -> str:
        """Write a picture made of an input; ``mark`` goes before the extension."""
        jpeg = max(picture.shape) <= JPEG_MAX_SIDE
        output = self._claim(file, mark + (".jpg" if jpeg else ".png"))
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG" if jpeg else "PNG", quality=JPEG_QUALITY)
        write_bytes(self._options.output / output, buffer.getvalue())
        return output.as_posix()

    def _claim(self, file: InputFile, suffix: str) -> PurePath:
        return MEDIA_FOLDER / self._names.claim(file.relative, suffix)


def describe(status: FileStatus) -> str:
    """One line on one file, for people."""
    if status.status == FAILED:
        return f"FAILED   {status.file_name}: {status.reason}"
    if not status.faces:
        text = "no face found"
    else:
        text = f"{_count(status.faces, 'face')}, {status.forged_faces or 'none'} forged"
    if status.kind == "video":
        text += (
            f" in {_count(status.analysed_frames, 'analysed frame')} of {status.frames}"
            f" ({status.frames_with_forged_faces} with a forged face)"
        )
    if status.reason:
        text += f" [{status.reason}]"
    return f"{status.status:8} {status.file_name}: {text}"


def describe_summary(summary: dict[str, int]) -> str:
    """The end of a run, for people; ``summary`` as ``outputs.summarise`` makes it."""
    return (
        f"{_count(summary['files'], 'file')}: {summary['forged_face_found']} with a forged face, "
        f"{summary['all_faces_real']} with real faces only, {summary['no_face_found']} without a "
        f"face; {summary['partial']} read in part, {summary['failed']} failed."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

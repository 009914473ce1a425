"""The results file of a run: one JSON document, written in one go or not at all.

Its layout, ``schema_version`` 1.0::

    {"schema_version": "1.0",
     "provenance": {...}            model, its SHA-256, thresholds, calibration: see Predictor
     "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
     "results": [one entry per face: COCO's image_id, category_id, bbox (x, y, width, height),
                 score, segmentation (RLE), and file_name, fake_probability],
     "images":  [one entry per picture or analysed frame: id, file_name, width, height; of a frame
                 also frame (position in the video) and time_s (seconds since its first frame)],
     "files":   [one entry per input file: FileStatus],
     "summary": {status: count}}

``results`` is what pycocotools' ``loadRes`` takes. ``score`` is the confidence that there is a
face; ``fake_probability`` is P(fake), from which ``category_id`` follows. Entries are spooled to
disk as they come, so memory does not grow with the length of a video.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO

from comics.data.coco import faces_to_results
from comics.inference.files import atomic_path
from comics.structures import CLASS_NAMES, FAKE, Faces

SCHEMA_VERSION = "1.0"
OK, PARTIAL, FAILED = "ok", "partial", "failed"
NO_FACE, ALL_REAL, FORGED = "no_face_found", "all_faces_real", "forged_face_found"
BOX_DECIMALS = 2  # pixels
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class FileStatus:
    """What became of one input file.

    Attributes:
        file_name: as it was found.
        kind: "image" or "video".
        status: "ok"; "partial": a video of which not everything could be read; "failed".
        verdict: "no_face_found", "all_faces_real", "forged_face_found"; None if it failed. Of a
            video: over all its analysed frames, so one frame is enough for "forged_face_found".
        faces, forged_faces: counts; of a video, summed over its analysed frames.
        reason: what went wrong, or was left out (a sound track); None if nothing.
        output: the annotated picture or video, relative to the results file; None without one.
        heat_map: the picture of where its faces look forged, likewise.
        frames, analysed_frames, frames_with_faces, frames_with_forged_faces: videos only.
    """

    file_name: str
    kind: str
    status: str
    verdict: str | None = None
    faces: int = 0
    forged_faces: int = 0
    reason: str | None = None
    output: str | None = None
    heat_map: str | None = None
    frames: int | None = None
    analysed_frames: int | None = None
    frames_with_faces: int | None = None
    frames_with_forged_faces: int | None = None


def verdict_of(faces: int, forged_faces: int) -> str:
    """The verdict of a file that was read; finding no face is not the same as finding real ones."""
    if not faces:
        return NO_FACE
    return FORGED if forged_faces else ALL_REAL


def count_forged(faces: Faces) -> int:
    """Faces whose label is fake."""
    return int((faces.labels == FAKE).sum())


def faces_to_entries(faces: Faces, image_id: int, file_name: str) -> list[dict]:
    """One COCO results entry per face, with its file name; numbers rounded to what they carry."""
    entries = []
    for result in faces_to_results(faces, image_id):
        result["file_name"] = file_name
        result["bbox"] = [round(value, BOX_DECIMALS) for value in result["bbox"]]
        for name in result.keys() & {"score", "fake_probability"}:
            result[name] = round(result[name], SCORE_DECIMALS)
        entries.append(result)
    return entries


class ResultsWriter:
    """Takes pictures, faces and file outcomes as they come; made by ``results_file``.

    Args:
        document: open text file of the document; entries go to it at once.
        images: open text file, read back at the end: pictures and faces come interleaved, but are
            two lists in the document.
    """

    def __init__(self, document: IO[str], images: IO[str]) -> None:
        self.files: list[FileStatus] = []
        self._document = document
        self._images = images
        self._image_count = 0
        self._face_count = 0

    def add_image(
        self, file_name: str, faces: Faces, frame: int | None = None, time_s: float | None = None
    ) -> int:
        """Add a picture, or a frame of a video, and its faces; returns its image id, from 1."""
        self._image_count += 1
        height, width = faces.image_size
        image = {"id": self._image_count, "file_name": file_name, "width": width, "height": height}
        if frame is not None:
            image |= {"frame": frame, "time_s": time_s}
        self._images.write((",\n" if self._image_count > 1 else "\n") + json.dumps(image))
        for entry in faces_to_entries(faces, self._image_count, file_name):
            self._document.write((",\n" if self._face_count else "\n") + json.dumps(entry))
            self._face_count += 1
        return self._image_count

    def add_file(self, status: FileStatus) -> None:
        """Add the outcome of one input file."""
        self.files.append(status)

    def begin(self, provenance: Mapping[str, object]) -> None:
        """Write what comes before the entries."""
        self._document.write('{"schema_version": ' + json.dumps(SCHEMA_VERSION))
        self._write_member("provenance", provenance)
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES)]
        self._write_member("categories", categories)
        self._document.write(',\n"results": [')

    def finish(self) -> None:
        """Write what comes after the entries."""
        self._document.write('],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._document)
        self._document.write("]")
        self._write_member("files", [_without_absent(asdict(file)) for file in self.files])
        self._write_member("summary", summarise(self.files))
        self._document.write("}\n")

    def _write_member(self, name: str, value: object) -> None:
        self._document.write(f",\n{json.dumps(name)}: {json.dumps(value, allow_nan=False)}")


@contextlib.contextmanager
def results_file(
    path: str | os.PathLike, provenance: Mapping[str, object]
) -> Iterator[ResultsWriter]:
    """A writer of the results file; the file appears at ``path`` when the block ends well."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as document,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=temporary.parent) as images,
    ):
        writer = ResultsWriter(document, images)
        writer.begin(provenance)
        yield writer
        writer.finish()


def summarise(files: list[FileStatus]) -> dict[str, int]:
    """Counts of every status and verdict, of files and of faces."""
    statuses = Counter(file.status for file in files)
    verdicts = Counter(file.verdict for file in files)
    return {
        "files": len(files),
        **{status: statuses[status] for status in (OK, PARTIAL, FAILED)},
        **{verdict: verdicts[verdict] for verdict in (NO_FACE, ALL_REAL, FORGED)},
        "faces": sum(file.faces for file in files),
        "forged_faces": sum(file.forged_faces for file in files),
    }


def _without_absent(status: dict) -> dict:
    """Leave out what a picture has no value for; verdict and reason are always there."""
    return {k: v for k, v in status.items() if v is not None or k in ("verdict", "reason")}

"""The results file of a run: one JSON document, written in one go or not at all.

Its layout, ``schema_version`` 1.1 (``results.schema.json`` beside this file is its JSON schema,
docs/results.md its page for readers)::

    {"schema_version": "1.1",
     "provenance": {...}            model, its SHA-256, thresholds, calibration: see Predictor
     "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
     "results": [one entry per face: COCO's image_id, category_id, bbox (x, y, width, height),
                 score, segmentation (RLE), and file_name, fake_probability; of a video's face also
                 track_id (unique in its file); with crops also crop (a file of the run)],
     "images":  [one entry per picture or analysed frame: id, file_name, width, height; of a frame
                 also frame (position in the part that was looked at) and time_s (seconds since
                 the video's first frame)],
     "files":   [one entry per input file: FileStatus],
     "summary": {status: count, "complete": whether no input is left, "pending": inputs left}}

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO

from comics.data.coco import faces_to_results
from comics.inference.files import atomic_path
from comics.structures import CLASS_NAMES, FAKE, Faces

SCHEMA_VERSION = "1.1"
OK, PARTIAL, FAILED = "ok", "partial", "failed"
NO_FACE, ALL_REAL, FORGED = "no_face_found", "all_faces_real", "forged_face_found"
BOX_DECIMALS = 2  # pixels
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class FileStatus:
    """What became of one input file.

    Attributes:
        file_name: as it was found.
        kind: "image", "video"; "unknown" of what could not be looked at.
        status: "ok"; "partial": a video of which not everything could be read; "failed".
        verdict: "no_face_found", "all_faces_real", "forged_face_found"; None if it failed. Of a
            video: of its tracks (comics.video.track_verdicts); a frame is not enough.
        faces, forged_faces: counts; of a video, summed over its analysed frames.
        reason: what went wrong, or was left out (a sound track); None if nothing.
        output: the annotated picture or video, relative to the results file; None without one.
        heat_map: the picture of where its faces look forged, likewise.
        frames, analysed_frames, frames_with_faces, frames_with_forged_faces: videos only.
        tracks: of a video, how many faces were followed through it.
        fake_probability: of a video, P(fake) over its tracks, by the rule that its tracks file
            states.
        timeline, tracks_file: of a video, the plot of P(fake) over time and the file of its
            tracks, relative to the results file.
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
    tracks: int | None = None
    fake_probability: float | None = None
    timeline: str | None = None
    tracks_file: str | None = None


def verdict_of(faces: int, forged_faces: int) -> str:
    """The verdict of a file that was read; finding no face is not the same as finding real ones."""
    if not faces:
        return NO_FACE
    return FORGED if forged_faces else ALL_REAL


def count_forged(faces: Faces) -> int:
    """Faces whose label is fake."""
    return int((faces.labels == FAKE).sum())


def faces_to_entries(
    faces: Faces,
    image_id: int,
    file_name: str,
    track_ids: Sequence[int] | None = None,
    crops: Sequence[str] | None = None,
) -> list[dict]:
    """One COCO results entry per face, with its file name; numbers rounded to what they carry.

    Args:
        faces: verdicts.
        image_id: of the picture or frame.
        file_name: of the input file.
        track_ids: of each face of a video's frame; None: of a picture.
        crops: the file of each face's crop, relative to the results file; None: not written.
    """
    entries = []
    for position, result in enumerate(faces_to_results(faces, image_id)):
        result["file_name"] = file_name
        result["bbox"] = [round(value, BOX_DECIMALS) for value in result["bbox"]]
        for name in result.keys() & {"score", "fake_probability"}:
            result[name] = round(result[name], SCORE_DECIMALS)
        if track_ids is not None:
            result["track_id"] = int(track_ids[position])
        if crops is not None:
            result["crop"] = crops[position]
        entries.append(result)
    return entries


def image_entry(
    file_name: str, faces: Faces, frame: int | None = None, time_s: float | None = None
) -> dict:
    """The entry of a picture, or of a frame of a video, but for its id."""
    height, width = faces.image_size
    entry = {"file_name": file_name, "width": width, "height": height}
    return entry if frame is None else entry | {"frame": frame, "time_s": time_s}


class ResultsWriter:
    """Takes pictures, faces and file outcomes as they come; made by ``results_file``.

    Args:
        document: open text file of the document; entries go to it at once.
        images: open text file, read back at the end: pictures and faces come interleaved, but are
            two lists in the document.

    Attributes:
        files: outcomes so far.
        pending: inputs that are left for another time; to be set before the block ends.
    """

    def __init__(self, document: IO[str], images: IO[str]) -> None:
        self.files: list[FileStatus] = []
        self.pending = 0
        self._document = document
        self._images = images
        self._image_count = 0
        self._face_count = 0

    def add_image(
        self,
        file_name: str,
        faces: Faces,
        frame: int | None = None,
        time_s: float | None = None,
        track_ids: Sequence[int] | None = None,
        crops: Sequence[str] | None = None,
    ) -> int:
        """Add a picture, or a frame of a video, and its faces; returns its image id, from 1."""
        return self.add_entries(
            image_entry(file_name, faces, frame, time_s),
            faces_to_entries(faces, 0, file_name, track_ids, crops),
        )

    def add_entries(self, image: Mapping, faces: Sequence[Mapping]) -> int:
        """Add entries as ``image_entry`` and ``faces_to_entries`` make them; numbers them anew."""
        self._image_count += 1
        line = json.dumps({"id": self._image_count, **image})
        self._images.write((",\n" if self._image_count > 1 else "\n") + line)
        for face in faces:
            line = json.dumps({**face, "image_id": self._image_count})
            self._document.write((",\n" if self._face_count else "\n") + line)
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
        self._write_member("files", [file_entry(file) for file in self.files])
        state = {"complete": not self.pending, "pending": self.pending}
        self._write_member("summary", summarise(self.files) | state)
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


def file_entry(status: FileStatus) -> dict:
    """The entry of an input file, without what it has no value for.

    ``verdict`` and ``reason`` are always there.
    """
    return {k: v for k, v in asdict(status).items() if v is not None or k in ("verdict", "reason")}

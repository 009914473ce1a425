"""The results file of a run: one JSON document, written in one go or not at all.

Its layout, ``schema_version`` 2.3 (``results.schema.json`` beside this file is its JSON schema,
docs/results.md its page for readers)::

    {"schema_version": "2.3",
     "provenance": {...}            model, its SHA-256, thresholds, calibration: see Predictor
     "run": {...}                   when it ran, by which command, versions: comics.runs.history
     "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
     "results": [one entry per face: COCO's image_id, category_id, bbox (x, y, width, height),
                 score, segmentation (RLE), and file_name, fake_probability, verdict (real, fake or
                 unclear; of the last unclear_because, a list of comics.structures.DOUBTS); of a
                 video's face also track_id (unique in its file); with crops also crop (a file of
                 the run); of a picture's face where asked for stability
                 (comics.inference.stability) and heat_map (comics.inference.heat_grids), which of
                 a person in a video are in track_verdicts],
     "images":  [one entry per picture or analysed frame: id, file_name, width, height; of a frame
                 also frame (position in the part that was looked at) and time_s (seconds since
                 the video's first frame)],
     "files":   [one entry per input file: FileStatus, with the members of FileFacts],
     "summary": {status: count, "complete": whether no input is left, "pending": inputs left,
                 "passed_over": files of the inputs that are neither picture nor video}}

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

from comics.data.coco import faces_to_results
from comics.data.custody.facts import FileFacts
from comics.files import atomic_path
from comics.inference.heat_grids import HeatGrid
from comics.structures import CLASS_NAMES, Faces

SCHEMA_VERSION = "2.3"
OK, PARTIAL, FAILED = "ok", "partial", "failed"
TOO_LITTLE_MEMORY = "too little memory"  # how the reason of a file that failed for that begins
# Of a file. No forgery found among its faces is not the same as a file that is real
NO_FACE, NO_FORGERY, UNCLEAR, FORGED = (
    "no_face_found", "no_forgery_found", "unclear", "forged_face_found",
)  # fmt: skip
BOX_DECIMALS = 2  # pixels
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class FileStatus:
    """What became of one input file.

    Attributes:
        file_name: as it was found.
        kind: "image", "video"; "unknown" of what could not be looked at.
        status: "ok"; "partial": a video of which not everything could be read; "failed".
        verdict: "forged_face_found" with one such face; else "unclear" with one such face; else
            "no_forgery_found", or "no_face_found"; None if it failed. Of a video: of its tracks
            (comics.video.track_verdicts); a frame is not enough.
        faces, forged_faces, unclear_faces: counts by verdict; of a video, summed over its analysed
            frames.
        reason: what went wrong, was not looked at (further pages, streams), or was left out (a
            sound track); None if nothing.
        output: the annotated picture or video, relative to the results file; None without one.
        heat_map: the picture of where its faces look forged, likewise.
        frames, analysed_frames, frames_with_faces, frames_with_forged_faces: videos only.
        tracks, forged_tracks, unclear_tracks: of a video, how many faces were followed through it,
            and how many of them were called forged, or neither.
        track_verdicts: of a video, what is said of each of them, the first 1,000: see
            ``comics.video.tracks_file.Track.entry``.
        fake_probability: of a video, P(fake) over its tracks, by the rule that its tracks file
            states.
        timeline, tracks_file: of a video, the plot of P(fake) over time and the file of its
            tracks, relative to the results file.
        changed_during_run: True if the file changed after the run had begun: its facts and its
            verdict may be of different contents. None otherwise.
        facts: its SHA-256, and what it says of its origin; in the results these are members of the
            file's entry. None of a live source, and of what cannot be read.
    """

    file_name: str
    kind: str
    status: str
    verdict: str | None = None
    faces: int = 0
    forged_faces: int = 0
    unclear_faces: int = 0
    reason: str | None = None
    output: str | None = None
    heat_map: str | None = None
    frames: int | None = None
    analysed_frames: int | None = None
    frames_with_faces: int | None = None
    frames_with_forged_faces: int | None = None
    tracks: int | None = None
    forged_tracks: int | None = None
    unclear_tracks: int | None = None
    track_verdicts: Sequence[dict[str, Any]] | None = None
    fake_probability: float | None = None
    timeline: str | None = None
    tracks_file: str | None = None
    changed_during_run: bool | None = None
    facts: FileFacts | None = None


def categories() -> list[dict[str, object]]:
    """COCO's list of them."""
    return [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES)]


def verdict_of(verdicts: Collection[str]) -> str:
    """The verdict of a file that was read, from those of its faces or tracks.

    Finding no face is not the same as finding no forgery.

    Args:
        verdicts: of ``comics.structures.VERDICTS``.
    """
    if not verdicts:
        return NO_FACE
    if "fake" in verdicts:
        return FORGED
    return UNCLEAR if "unclear" in verdicts else NO_FORGERY


def faces_to_entries(
    faces: Faces,
    file_name: str,
    track_ids: Sequence[int] | None = None,
    crops: Sequence[str] | None = None,
    stability: Sequence[Mapping[str, float | None]] | None = None,
    heat_maps: Sequence[HeatGrid] | None = None,
) -> list[dict]:
    """One COCO results entry per face, but for its image_id, with its file name.

    Numbers are rounded to what they carry.

    Args:
        faces: verdicts.
        file_name: of the input file.
        track_ids: of each face of a video's frame; None: of a picture.
        crops: the file of each face's crop, relative to the results file; None: not written.
        stability: of each face, see ``comics.inference.stability``; None: not measured.
        heat_maps: of each face; None: not asked for.
    """
    entries = []
    told = zip(faces_to_results(faces, 0), faces.verdicts, faces.doubt_names, strict=True)
    for position, (result, verdict, doubts) in enumerate(told):
        del result["image_id"]  # given when the document is written
        result["file_name"] = file_name
        result["verdict"] = verdict
        if doubts:
            result["unclear_because"] = list(doubts)
        result["bbox"] = [round(value, BOX_DECIMALS) for value in result["bbox"]]
        for name in result.keys() & {"score", "fake_probability"}:
            result[name] = round(result[name], SCORE_DECIMALS)
        if track_ids is not None:
            result["track_id"] = int(track_ids[position])
        if crops is not None:
            result["crop"] = crops[position]
        if stability is not None:
            result["stability"] = stability_entry(stability[position])
        if heat_maps is not None:
            result["heat_map"] = heat_maps[position].entry()
        entries.append(result)
    return entries


def stability_entry(stability: Mapping[str, float | None]) -> dict[str, float | None]:
    """What results say of a face's stability, rounded to what it carries."""
    return {
        name: None if value is None else round(value, SCORE_DECIMALS)
        for name, value in stability.items()
    }


def image_entry(
    file_name: str, faces: Faces, frame: int | None = None, time_s: float | None = None
) -> dict:
    """The entry of a picture, or of a frame of a video, but for its id."""
    height, width = faces.image_size
    entry = {"file_name": file_name, "width": width, "height": height}
    return entry if frame is None else entry | {"frame": frame, "time_s": time_s}


class DocumentWriter:
    """Takes pictures, faces and file outcomes as they come; made by ``results_file``.

    Args:
        document: open text file of the document; entries go to it at once.
        images: open text file, read back at the end: pictures and faces come interleaved, but are
            two lists in the document.

    Attributes:
        files: outcomes so far.
        pending: inputs that are left for another time; to be set before the block ends.
        passed_over: files that were no inputs, likewise.
    """

    def __init__(self, document: IO[str], images: IO[str]) -> None:
        self.files: list[FileStatus] = []
        self.pending = 0
        self.passed_over = 0
        self._document = document
        self._images = images
        self._image_count = 0
        self._face_count = 0

    def add_texts(self, image: str, faces: Sequence[str]) -> int:
        """Add a picture or frame and its faces, as JSON objects; returns its image id, from 1.

        Args:
            image: of ``images``, without its id.
            faces: of ``results``, without their image_id.
        """
        self._image_count += 1
        number = self._image_count
        self._images.write((",\n" if number > 1 else "\n") + f'{{"id": {number}, {image[1:]}')
        for face in faces:
            start = ",\n" if self._face_count else "\n"
            self._document.write(f'{start}{{"image_id": {number}, {face[1:]}')
            self._face_count += 1
        return number

    def add_file(self, status: FileStatus) -> None:
        """Add the outcome of one input file."""
        self.files.append(status)

    def begin(
        self, provenance: Mapping[str, object], run: Mapping[str, object] | None = None
    ) -> None:
        """Write what comes before the entries."""
        self._document.write('{"schema_version": ' + json.dumps(SCHEMA_VERSION))
        self._write_member("provenance", provenance)
        if run is not None:
            self._write_member("run", run)
        self._write_member("categories", categories())
        self._document.write(',\n"results": [')

    def finish(self) -> None:
        """Write what comes after the entries."""
        self._document.write('],\n"images": [')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._document)
        self._document.write("]")
        self._write_member("files", [file_entry(file) for file in self.files])
        state = {
            "complete": not self.pending,
            "pending": self.pending,
            "passed_over": self.passed_over,
        }
        self._write_member("summary", summarise(self.files) | state)
        self._document.write("}\n")

    def _write_member(self, name: str, value: object) -> None:
        self._document.write(f",\n{json.dumps(name)}: {json.dumps(value, allow_nan=False)}")


@contextlib.contextmanager
def results_file(
    path: str | os.PathLike,
    provenance: Mapping[str, object],
    run: Mapping[str, object] | None = None,
) -> Iterator[DocumentWriter]:
    """A writer of the results file; the file appears at ``path`` when the block ends well.

    Args:
        path: of it.
        provenance: of the predictor.
        run: see ``comics.runs.history.RunHistory.told``; None: a document without it.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8") as document,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=temporary.parent) as images,
    ):
        writer = DocumentWriter(document, images)
        writer.begin(provenance, run)
        yield writer
        writer.finish()


def summarise(files: list[FileStatus]) -> dict[str, int]:
    """Counts of every status and verdict, of files and of faces."""
    statuses = Counter(file.status for file in files)
    verdicts = Counter(file.verdict for file in files)
    return {
        "files": len(files),
        **{status: statuses[status] for status in (OK, PARTIAL, FAILED)},
        **{verdict: verdicts[verdict] for verdict in (NO_FACE, NO_FORGERY, UNCLEAR, FORGED)},
        "faces": sum(file.faces for file in files),
        "forged_faces": sum(file.forged_faces for file in files),
        "unclear_faces": sum(file.unclear_faces for file in files),
    }


def file_entry(status: FileStatus) -> dict:
    """The entry of an input file, without what it has no value for.

    ``verdict`` and ``reason`` are always there.
    """
    told = asdict(replace(status, facts=None))
    entry = {k: v for k, v in told.items() if v is not None or k in ("verdict", "reason")}
    return entry if status.facts is None else entry | status.facts.entry()

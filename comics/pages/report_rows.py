"""What a run's documents say, as rows of files and of faces, for its report.

Of a picture every face is a row; of a video every track. Memory holds the rows that are shown, not
the documents.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from comics.inference.heat_grids import HeatGrid
from comics.inference.stability import TREATMENTS
from comics.runs.outputs import FAILED, FORGED, NO_FORGERY, OK, PARTIAL, UNCLEAR
from comics.runs.results_reader import ResultsError, inner_path, read_members
from comics.structures import CLASS_NAMES, DOUBTS
from comics.video.tracks_file import Track

MAX_FILES = 5_000  # rows of the report; the tables beside it (.csv) hold all
MAX_FACES = 10_000
MAX_PROBABILITIES = 1_000  # of one file's faces, the highest
MAX_TRACKS_BYTES = 100 << 20  # of a video's tracks file; a larger one is not read
MAX_TIMELINES = 40
SUPPORTED = ("1.", "2.")  # schema versions: a later minor one may add members
# Version 1 knew two verdicts on faces, and said more than it knew of files without a forged one
RENAMED = {"all_faces_real": NO_FORGERY}
FAKE_THRESHOLD = 0.5  # where the provenance does not say
SAME_TIME = 1e-4  # seconds


@dataclass
class FileRow:
    """One input file.

    Attributes:
        entry: of ``files`` in results.json.
        number: its place there.
        size: (width, height) in pixels; None if it was not looked at.
        probability: the highest P(fake) of its faces; of a video, its own; None without a face.
        score: the highest of its faces.
        probabilities: P(fake) of its faces, or tracks, and whether there are doubts about it other
            than how near it is to the threshold.
        seconds: how long a video is, as far as it was looked at.
        start_s: where that part begins, in seconds.
        peak: P(fake) of its most suspicious face, in the picture or frame ``peak_image`` (an id);
            ``peak_frame`` and ``peak_time`` are that frame's index, and its time in seconds since
            the start of the video.
    """

    entry: Mapping
    number: int
    size: tuple[int, int] | None = None
    probability: float | None = None
    score: float | None = None
    probabilities: list[tuple[float, bool]] = field(default_factory=list)
    seconds: float | None = None
    start_s: float = 0.0
    peak: float = -1.0
    peak_image: int = 0
    peak_frame: int | None = None
    peak_time: float | None = None

    @property
    def name(self) -> str:
        """As it was found."""
        return self.entry["file_name"]

    @property
    def is_video(self) -> bool:
        """Whether its faces were followed."""
        return self.entry["kind"] == "video"

    @property
    def rank(self) -> tuple:
        """Forged ones first, then unclear ones, then what failed, then the rest, in their order."""
        verdict, failed = self.entry["verdict"], self.entry["status"] == FAILED
        order = [verdict == FORGED, verdict == UNCLEAR, failed, True].index(True)
        return order, -(self.probability or 0), self.number


@dataclass(frozen=True)
class EvidenceFrame:
    """The frame of a track that is shown for it.

    Attributes:
        index: in the part of the video that was looked at.
        time_s: seconds since the video's first frame.
        size: (width, height) in pixels.
        box: (x, y, width, height) of the face in it.
        probability: P(fake) that it says alone.
    """

    index: int
    time_s: float
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    probability: float


@dataclass
class FaceRow:
    """A face of a picture, or a track of a video.

    Attributes:
        file: that it is in.
        probability, score: P(fake), and the confidence that there is a face (a track's: the mean).
        label: 0 real, 1 fake.
        doubts: why its verdict is unclear, of ``comics.structures.DOUBTS``.
        box: (x, y, width, height) in pixels; of a track in the frame of its file's ``peak_time``,
            None where it is not in that frame.
        size: (width, height); of a track the medians.
        crop: path of its picture, relative to the run's folder; None without one.
        place: its position in its picture; of a track the frame in which it is most suspicious.
        mask: in a picture, or in the frame ``shown``, COCO's RLE as the document has it; None
            without one.
        heat: likewise where its method sees forgery.
        stability: likewise P(fake) after treatments of the picture; None: not measured.
        track, frames, times: of a track its number, in how many analysed frames it was seen, and
            its first and last time in seconds.
        shown: of a track the frame in which it is most suspicious; None of a run before schema 2.3.
    """

    file: FileRow
    probability: float
    score: float
    label: int
    box: tuple[float, float, float, float] | None
    size: tuple[float, float]
    crop: str | None = None
    doubts: tuple[str, ...] = ()
    place: int = 0
    mask: Mapping | None = None
    heat: HeatGrid | None = None
    stability: Mapping[str, float | None] | None = None
    track: int | None = None
    frames: int | None = None
    times: tuple[float, float] | None = None
    shown: EvidenceFrame | None = None

    @property
    def view(self) -> tuple[tuple[float, float, float, float], tuple[int, int]] | None:
        """Its box in the picture or frame that shows it, and (width, height) of that."""
        if self.shown is not None:
            return self.shown.box, self.shown.size
        if self.track is not None or self.box is None or self.file.size is None:
            return None
        return self.box, self.file.size


@dataclass
class Timeline:
    """What the plot of a video needs: see ``comics.pages.timeline.timeline_svg``."""

    file: FileRow
    tracks: list[Track]
    points: dict[int, np.ndarray]
    fake_threshold: float
    lost_seconds: float


@dataclass
class RunRows:
    """What a run left.

    Attributes:
        files, faces: rows that are shown, in the order of the run.
        file_count, face_count: how many there are.
        timelines: of its videos.
        provenance, summary: as in results.json.
        notes: what could not be read, or is left out.
        run: as in results.json; empty of a run before schema 2.1.
    """

    files: list[FileRow]
    faces: list[FaceRow]
    file_count: int
    face_count: int
    timelines: list[Timeline]
    provenance: Mapping
    summary: Mapping
    notes: list[str]
    run: Mapping = field(default_factory=dict)

    @property
    def fake_threshold(self) -> float:
        """P(fake) from which on the run called a face forged."""
        value = self.provenance.get("fake_threshold", FAKE_THRESHOLD)
        return float(value) if isinstance(value, (int, float)) else FAKE_THRESHOLD

    @property
    def near(self) -> tuple[float, float]:
        """How far below and above the threshold P(fake) is too near to it."""
        rule = self.provenance.get("unclear")
        told = [rule.get(name) if isinstance(rule, dict) else None for name in ("below", "above")]
        below, above = (float(v) if isinstance(v, (int, float)) else 0.0 for v in told)
        return below, above


def read_run(folder: Path) -> RunRows:
    """The rows of the run in ``folder``.

    Raises:
        ResultsError: if its results.json is absent, broken, or of another schema.
    """
    path = folder / "results.json"
    provenance, summary, run, files = _read_files(path)
    chosen = _Highest(MAX_FACES)
    _read_faces(path, files, chosen)
    return replace(_finish_rows(folder, provenance, summary, files, chosen), run=run)


class RunRowsCollector:
    """Rows of a run that has just ended, from its record: a ``comics.runs.run.RecordSink``."""

    def __init__(self) -> None:
        self._files: list[FileRow] = []
        self._chosen = _Highest(MAX_FACES)
        self._images = 0

    def add_file(self, entry: Mapping) -> None:
        """An input file, as in ``files`` of results.json; what follows is of it."""
        self._files.append(
            FileRow({"verdict": None, "reason": None} | dict(entry), len(self._files))
        )

    def add_image(self, image: Mapping, faces: Sequence[Mapping]) -> None:
        """A picture or frame of the file: the entry, and those of its faces."""
        row = self._files[-1]
        self._images += 1
        before = row.peak
        for place, face in enumerate(faces):
            _add_face(row, face, self._images, place, self._chosen)
        row.size = row.size or (image["width"], image["height"])
        if row.peak > before:
            row.peak_frame, row.peak_time = image.get("frame"), image.get("time_s")

    def rows(
        self, folder: Path, provenance: Mapping, summary: Mapping, run: Mapping | None = None
    ) -> RunRows:
        """All that the report shows; the tracks of videos are read from their files."""
        rows = _finish_rows(folder, provenance, summary, self._files, self._chosen)
        return replace(rows, run=run or {})


def _finish_rows(
    folder: Path, provenance: Mapping, summary: Mapping, files: list[FileRow], chosen: _Highest
) -> RunRows:
    timelines: list[Timeline] = []
    notes: list[str] = []
    for row in files:
        if row.is_video and row.entry["status"] != FAILED:
            _read_video(folder, row, chosen, timelines, notes)
    shown = sorted(files, key=lambda row: row.rank)[:MAX_FILES]
    shown.sort(key=lambda row: row.number)
    numbers = {row.number for row in shown}
    faces = [face for face in chosen.faces() if face.file.number in numbers]
    if len(shown) < len(files):
        notes.append(f"{len(shown)} of {len(files)} files are shown: files.csv lists all")
    if len(faces) < chosen.count:
        notes.append(
            f"{len(faces)} of {chosen.count} faces are shown, the most suspicious ones: "
            "results.csv lists all"
        )
    return RunRows(shown, faces, len(files), chosen.count, timelines, provenance, summary, notes)


class _Highest:
    """Keeps the faces with the highest P(fake), counts all."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._heap: list[tuple[float, int, FaceRow]] = []

    def add(self, face: FaceRow) -> None:
        """Count a face, and keep it while it is among the highest."""
        self.count += 1
        entry = (face.probability, -self.count, face)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def faces(self) -> list[FaceRow]:
        """In the order in which they came, file by file."""
        kept = sorted(self._heap, key=lambda entry: (entry[2].file.number, -entry[1]))
        return [face for _, _, face in kept]


def _read_files(path: Path) -> tuple[Mapping, Mapping, Mapping, list[FileRow]]:
    provenance: Mapping = {}
    summary: Mapping = {}
    run: Mapping = {}
    files: list[FileRow] = []
    version = None
    for name, value in read_members(path):
        if name == "schema_version":
            version = value
        elif name == "provenance" and isinstance(value, dict):
            provenance = value
        elif name == "summary" and isinstance(value, dict):
            summary = value
        elif name == "run" and isinstance(value, dict):
            run = value
        elif name == "files":
            files.append(FileRow(_file_entry(path, value, len(files)), len(files)))
    if not isinstance(version, str) or not version.startswith(SUPPORTED):
        known = " or ".join(f"{prefix}x" for prefix in SUPPORTED)
        raise ResultsError(
            path, f"schema_version {version!r} is not one that this version reads ({known})"
        )
    return provenance, {RENAMED.get(name, name): n for name, n in summary.items()}, run, files


def _file_entry(path: Path, value: Any, number: int) -> dict:
    texts = {"file_name": str, "kind": str, "faces": int, "forged_faces": int}
    sound = isinstance(value, dict) and all(isinstance(value.get(k), t) for k, t in texts.items())
    if not sound or value.get("status") not in (OK, PARTIAL, FAILED):
        raise ResultsError(path, f"files[{number}] is no outcome of a file")
    verdict = value.get("verdict")
    renamed = {"verdict": RENAMED.get(verdict, verdict)} if isinstance(verdict, str) else {}
    return {"verdict": None, "reason": None} | value | renamed


def _read_faces(path: Path, files: list[FileRow], chosen: _Highest) -> None:
    """Fill in what ``results`` and ``images`` say."""
    rows: dict[Any, FileRow] = {row.name: row for row in files}
    peaks: dict[int, FileRow] | None = None
    image, place = 0, 0  # of the last face
    for name, value in read_members(path):
        if name not in ("results", "images") or not isinstance(value, dict):
            continue
        row = rows.get(value.get("file_name"))
        if row is None:
            continue
        try:
            if name == "results":
                place = place + 1 if value["image_id"] == image else 0
                image = value["image_id"]
                _add_face(row, value, int(image), place, chosen)
            else:
                if peaks is None:
                    peaks = {row.peak_image: row for row in files}
                row.size = row.size or (int(value["width"]), int(value["height"]))
                if peaks.get(value["id"]) is row and "time_s" in value:
                    row.peak_frame, row.peak_time = int(value["frame"]), float(value["time_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(path, f"an entry of {name} is unusable: {error!r}") from error


def _add_face(row: FileRow, value: Mapping, image: int, place: int, chosen: _Highest) -> None:
    """Take in a face: entry ``value``, in picture or frame ``image`` (an id), its ``place``-th."""
    probability, score = _share(value["fake_probability"]), _share(value["score"])
    if probability > row.peak:
        row.peak, row.peak_image = probability, image
    row.score = max(row.score or 0.0, score)
    if row.is_video:
        return
    row.probability = max(row.probability or 0.0, probability)
    doubts = _doubts(value)
    if len(row.probabilities) < MAX_PROBABILITIES:
        row.probabilities.append((probability, _is_doubted(doubts)))
    x, y, width, height = (_finite(edge) for edge in value["bbox"])
    crop = value.get("crop")
    label = int(value["category_id"] == 1)
    chosen.add(
        FaceRow(
            row,
            probability,
            score,
            label,
            (x, y, width, height),
            (width, height),
            crop,
            doubts,
            place,
            _mask(value),
            HeatGrid.from_entry(value.get("heat_map")),
            _stability(value.get("stability")),
        )
    )


def _mask(value: Mapping) -> Mapping | None:
    mask = value.get("segmentation")
    return mask if isinstance(mask, Mapping) else None


def _stability(told: object) -> Mapping[str, float | None] | None:
    """P(fake) after each treatment; None where it was not measured."""
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise ValueError(f"stability is {told!r}")
    known = {name: told[name] for name in TREATMENTS if name in told}
    return {name: None if value is None else _share(value) for name, value in known.items()}


def _doubts(value: Mapping) -> tuple[str, ...]:
    told = value.get("unclear_because", ())
    if not isinstance(told, (list, tuple)) or not set(told) <= set(DOUBTS):
        raise ValueError(f"unclear_because is {told!r}")
    return tuple(told)


def _is_doubted(doubts: Collection[str]) -> bool:
    """Whether a verdict would be unclear at any threshold."""
    return bool(set(doubts) - {"near_threshold"})


def _read_video(
    folder: Path, row: FileRow, chosen: _Highest, timelines: list[Timeline], notes: list[str]
) -> None:
    """Fill in what a video's tracks file says."""
    if row.entry.get("fake_probability") is not None:
        row.probability = _share(row.entry["fake_probability"])
    path = inner_path(folder, row.entry.get("tracks_file"))
    if path is None or path.stat().st_size > MAX_TRACKS_BYTES:
        why = "absent" if path is None else "too large for this page"
        notes.append(f"{row.name}: its tracks are not shown, their file is {why}")
        return
    timeline = Timeline(row, [], {}, FAKE_THRESHOLD, 1.0)
    try:
        found = list(_track_rows(path, row, timeline))
    except ResultsError as error:
        notes.append(f"{row.name}: its tracks are not shown: {error.reason}")
        return
    for face in found:
        chosen.add(face)
        row.probabilities.append((face.probability, _is_doubted(face.doubts)))
    row.probabilities = heapq.nlargest(MAX_PROBABILITIES, row.probabilities)
    if len(timelines) < MAX_TIMELINES:
        timelines.append(timeline)


def _track_rows(path: Path, row: FileRow, timeline: Timeline) -> Iterator[FaceRow]:
    try:
        for name, value in read_members(path):
            if name == "duration_s":
                row.seconds = _finite(value)
            elif name == "selection":
                row.start_s = _finite(value["start_s"])
            elif name == "aggregation":
                timeline.fake_threshold = _share(value["fake_threshold"])
                timeline.lost_seconds = _finite(value["lost_seconds"])
            elif name == "tracks":
                yield _track_row(value, row, timeline)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(path, f"unusable: {error!r}") from error


def _track_row(value: Mapping, row: FileRow, timeline: Timeline) -> FaceRow:
    times, boxes = np.array(value["times_s"], dtype=float), np.array(value["boxes"], dtype=float)
    scores = np.array(value["scores"], dtype=float)
    points = np.stack([times, np.array(value["fake_probabilities"], dtype=float), scores], axis=1)
    if boxes.shape != (len(times), 4) or not len(times) or not np.isfinite(boxes).all():
        raise ValueError("a track without boxes")
    if not np.isfinite(points).all():
        raise ValueError("a track with numbers that are none")
    probability = _share(value["fake_probability"])
    label = CLASS_NAMES.index(value["label"])
    track, span = int(value["track_id"]), (float(times[0]), float(times[-1]))
    doubts = _doubts(value)
    bits = sum(1 << DOUBTS.index(name) for name in doubts)
    timeline.tracks.append(Track(track, label, probability, len(times), *span, bits))
    timeline.points[track] = points
    here = np.zeros(0, np.int64)
    if row.peak_time is not None:
        here = np.flatnonzero(abs(times - row.peak_time) < SAME_TIME)
    box = None
    if len(here):
        left, top, across, down = boxes[here[0]].tolist()
        box = (left, top, across, down)
    width, height = np.median(boxes[:, 2:], axis=0).tolist()
    told = value.get("evidence") or {}
    shown = _shown(told) if told else None
    peak = int(value["frames"][int(points[:, 1].argmax())]) if shown is None else shown.index
    return FaceRow(
        row,
        probability,
        float(scores.mean()),
        label,
        box,
        (width, height),
        doubts=doubts,
        place=peak,
        mask=_mask(told),
        heat=HeatGrid.from_entry(told.get("heat_map")),
        stability=_stability(told.get("stability")),
        track=track,
        frames=len(times),
        times=span,
        shown=shown,
    )


def _shown(told: Mapping) -> EvidenceFrame:
    x, y, across, down = (_finite(edge) for edge in told["bbox"])
    width, height = int(_finite(told["width"])), int(_finite(told["height"]))
    if min(width, height) < 1:
        raise ValueError(f"a frame of {width}x{height}")
    return EvidenceFrame(
        int(_finite(told["frame"])), _finite(told["time_s"]), (width, height), (x, y, across, down),
        _share(told["fake_probability"]),
    )  # fmt: skip


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number


def _share(value: object) -> float:
    number = _finite(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not in [0, 1]")
    return number

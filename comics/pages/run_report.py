"""``report.html``: one self-contained page of a run, from what the run left in its folder.

Rows travel as JSON inside the page; its one script shows, sorts and filters them, a page at a time,
as text and never as markup. The page makes no request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from comics.files import write_bytes
from comics.inference.doubt import REASONS
from comics.inference.knowledge import knowledge_sentence
from comics.pages.custody import custody_counts, file_facts, run_facts, sha256_of
from comics.pages.evidence import anchor, face_pages, rates_sentence, verdict_name
from comics.pages.html_pages import VERDICTS, flat_pairs, read_template, render
from comics.pages.report_rows import FaceRow, FileRow, RunRows, Timeline, read_run
from comics.pages.thumbnails import (
    FacePicture,
    MediaPicture,
    RecordedThumbnails,
    crop_thumbnail,
    open_media,
)
from comics.runs.outputs import FAILED, FORGED, UNCLEAR
from comics.runs.results_reader import inner_path
from comics.structures import VERDICTS as VERDICT_NAMES

REPORT_NAME = "report.html"
TITLE = "Faces, real and forged"
TEMPLATE, SCRIPT = "run_report.html", "run_report.js"
MAX_PICTURES = 300  # files with a thumbnail: the most suspicious ones
MAX_FACE_PICTURES = 1_500
MAX_FIRST_FILES = 3  # whose facts are on the first screen; those of more are in the table
MAX_FINDINGS = 8  # files that the first page names
MAX_FACE_LINKS = 50  # of a file, in the list of files that needs no script
DECIMALS = 6  # of P(fake) and scores, as in results.json
SIZE_DECIMALS, TIME_DECIMALS = 1, 3

# (key of a row, heading, whether it is a number)
FILE_COLUMNS = (
    ("name", "File", False),
    ("verdict", "Verdict", False),
    ("p", "P(fake)", True),
    ("faces", "Faces", True),
    ("forged", "Forged", True),
    ("unclear", "Unclear", True),
    ("score", "Score", True),
    ("size", "Size", True),
    ("time", "Length", True),
)
FACE_COLUMNS = (
    ("name", "File", False),
    ("verdict", "Verdict", False),
    ("p", "P(fake)", True),
    ("score", "Score", True),
    ("size", "Size", True),
    ("time", "Time", True),
    ("track", "Track", True),
)
SUMMARY = {
    "files": "Files",
    "forged_face_found": "With a forged face",
    "unclear": "Unclear",
    "no_forgery_found": "No forgery found",
    "no_face_found": "No face found",
    "partial": "Read in part",
    "failed": "Failed",
}


def write_run_report(folder: str | os.PathLike, title: str = TITLE) -> Path:
    """Write ``report.html`` beside the ``results.json`` of a finished run; returns its path.

    Args:
        folder: of the run's outputs.
        title: heading of the page.

    Raises:
        ResultsError: if results.json is absent, broken, or of a schema that this version does not
            read. What else is missing (media, tracks) is told in the page.
        OSError: if the page cannot be written.
    """
    return write_rows_report(Path(folder), read_run(Path(folder)), title)


def write_rows_report(folder: Path, run: RunRows, title: str = TITLE) -> Path:
    """Write ``report.html`` from the rows of a run; returns its path.

    Raises:
        OSError: if the page cannot be written.
    """
    pictures = _pictures(folder, run)
    html = render(
        TEMPLATE,
        script=read_template(SCRIPT),
        title=title,
        data=_page_data(folder, run, pictures),
        findings=_findings(run),
        more_findings=max(0, len(_found(run)) - MAX_FINDINGS),
        rates=rates_sentence(run.provenance),
        files=_file_list(folder, run, pictures),
        faces=face_pages(run, pictures.faces),
        faces_without_page=run.face_count - len(pictures.faces),
        summary=[(text, run.summary.get(name, 0)) for name, text in SUMMARY.items()],
        pending=_pending(run),
        knowledge=knowledge_sentence(run.provenance),
        custody=[*custody_counts([row.entry for row in run.files]), *run_facts(run.run)],
        first_files=_first_files(run),
        notes=run.notes,
        file_columns=FILE_COLUMNS,
        face_columns=FACE_COLUMNS,
        threshold=run.fake_threshold,
        timelines=[_timeline(timeline) for timeline in run.timelines],
        provenance=flat_pairs(run.provenance),
    )
    path = folder / REPORT_NAME
    # Surrogates stand for bytes of file names that are no UTF-8
    write_bytes(path, html.encode("utf-8", "backslashreplace"))
    return path


def _first_files(run: RunRows) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, facts) of the files of a small run, which its first screen has room for."""
    if run.file_count > MAX_FIRST_FILES:
        return []
    told = [(row.name, file_facts(row.entry)) for row in run.files]
    return [(name, facts) for name, facts in told if facts]


def _pending(run: RunRows) -> int | None:
    """Inputs that are left; None if the run is complete."""
    if run.summary.get("complete", True):
        return None
    pending = run.summary.get("pending")
    return pending if isinstance(pending, int) else 0


@dataclass
class _Pictures:
    """Small pictures: number of a file -> data URI, position of a face -> its picture."""

    files: dict[int, str | None] = field(default_factory=dict)
    faces: dict[int, FacePicture] = field(default_factory=dict)


def _pictures(folder: Path, run: RunRows) -> _Pictures:
    pictures = _Pictures()
    recorded = RecordedThumbnails(folder)
    for row, positions in _pictured(run):
        shown = [run.faces[position] for position in positions]
        pictures.files[row.number], parts = _thumbnails(folder, row, shown, recorded)
        for position, picture in zip(positions, parts, strict=True):
            if picture is not None:
                pictures.faces[position] = picture
    return pictures


def _page_data(folder: Path, run: RunRows, pictures: _Pictures) -> dict[str, object]:
    """What the script shows; its names are those of the columns."""
    numbers = {row.number: place for place, row in enumerate(run.files)}
    faces = [_face_data(face, numbers[face.file.number]) for face in run.faces]
    files = [_file_data(folder, row) for row in run.files]
    for row, entry in zip(run.files, files, strict=True):
        entry["thumb"] = pictures.files.get(row.number)
    for position, picture in pictures.faces.items():
        faces[position] |= {"thumb": picture.small_uri, "page": f"#{anchor(position)}"}
    return {
        "threshold": run.fake_threshold,
        "near": run.near,
        "verdicts": VERDICTS,
        "reasons": REASONS,
        "files": files,
        "faces": faces,
    }


def _pictured(run: RunRows) -> Iterator[tuple[FileRow, list[int]]]:
    """The files that get a picture, and the positions of their faces that do."""
    of_file: dict[int, list[int]] = {}
    for position, face in enumerate(run.faces):
        of_file.setdefault(face.file.number, []).append(position)
    left = MAX_FACE_PICTURES
    looked_at = [row for row in run.files if row.entry["status"] != FAILED]
    for row in sorted(looked_at, key=lambda row: row.rank)[:MAX_PICTURES]:
        positions = of_file.get(row.number, [])[:left]
        left -= len(positions)
        yield row, positions


def _thumbnails(
    folder: Path, row: FileRow, faces: Sequence[FaceRow], recorded: RecordedThumbnails
) -> tuple[str | None, list[FacePicture | None]]:
    """Of a file and of faces of it: from the run's record, else cut from its media."""
    whole = recorded.file(row.name, row.peak_frame)
    parts = [_recorded(recorded, row, face) for face in faces]
    if whole is not None and None not in parts:
        return whole, parts
    media = open_media(folder, row, [face.box for face in faces if face.box])
    if whole is None and media is not None:
        whole = media.thumbnail()
    return whole, [
        _face_picture(folder, face, media) if part is None else part
        for face, part in zip(faces, parts, strict=True)
    ]


def _recorded(recorded: RecordedThumbnails, row: FileRow, face: FaceRow) -> FacePicture | None:
    """Of a face, from the run's record."""
    if face.track is None:
        uri = recorded.face(row.name, None, face.place)
    else:
        uri = recorded.face(row.name, face.place, face.track)
    picture = None if uri is None else FacePicture(uri)
    return picture if picture is not None and picture.is_sound else None


def _face_picture(folder: Path, face: FaceRow, media: MediaPicture | None) -> FacePicture | None:
    """Its own picture, or cut from the annotated one of its file."""
    if face.crop is not None:
        uri = crop_thumbnail(folder, face.crop)
        return None if uri is None else FacePicture(uri)
    if media is None or face.box is None:
        return None
    return FacePicture(media.face(face.box), drawn_over=True)


def _found(run: RunRows) -> list[FileRow]:
    """Files with a forged face, then those that are unclear."""
    told = [row for row in run.files if row.entry["verdict"] in (FORGED, UNCLEAR)]
    return sorted(told, key=lambda row: row.rank)


def _findings(run: RunRows) -> list[dict[str, object]]:
    """The files that the first page names."""
    return [
        {
            "name": row.name,
            "verdict": row.entry["verdict"],
            "text": VERDICTS[row.entry["verdict"]],
            "p": _fixed(row.probability),
        }
        for row in _found(run)[:MAX_FINDINGS]
    ]


def _file_list(folder: Path, run: RunRows, pictures: _Pictures) -> list[dict[str, object]]:
    """The files in a list that needs no script: the most suspicious ones first."""
    of_file: dict[int, list[int]] = {}
    for position, face in enumerate(run.faces):
        of_file.setdefault(face.file.number, []).append(position)
    return [
        {
            "name": row.name,
            "verdict": row.entry["verdict"] or FAILED,
            "text": VERDICTS.get(row.entry["verdict"], "Failed"),
            "reason": row.entry["reason"],
            "p": _fixed(row.probability),
            "faces": row.entry.get("tracks", row.entry["faces"]),
            "link": _link(folder, row.entry.get("output")),
            "sha256": sha256_of(row.entry),
            "pages": [
                {
                    "address": f"#{anchor(position)}",
                    "text": f"{verdict_name(run.faces[position])} "
                    f"{_fixed(run.faces[position].probability)}",
                }
                for position in of_file.get(row.number, [])[:MAX_FACE_LINKS]
                if position in pictures.faces
            ],
        }
        for row in sorted(run.files, key=lambda row: row.rank)
    ]


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _file_data(folder: Path, row: FileRow) -> dict[str, object]:
    entry = row.entry
    failed = entry["status"] == FAILED
    return {
        "name": row.name,
        "status": entry["status"],
        "verdict": FAILED if failed else entry["verdict"],
        "reason": entry["reason"],
        "video": row.is_video,
        "p": _rounded(row.probability, DECIMALS),
        "ps": [[round(value, DECIMALS), int(doubted)] for value, doubted in row.probabilities],
        "faces": entry.get("tracks", entry["faces"]),
        "forged": None,  # counted by the script, for the threshold at hand
        "unclear": None,
        "score": _rounded(row.score, DECIMALS),
        "size": row.size,
        "time": None if row.seconds is None else [round(row.seconds, TIME_DECIMALS)],
        "link": _link(folder, entry.get("output")),
        "heat": _link(folder, entry.get("heat_map")),
        "facts": file_facts(entry),
        "thumb": None,
    }


def _face_data(face: FaceRow, file: int) -> dict[str, object]:
    times = face.times
    return {
        "file": file,
        "p": round(face.probability, DECIMALS),
        "verdict": "unclear" if face.doubts else VERDICT_NAMES[face.label],
        "doubts": face.doubts,
        "score": round(face.score, DECIMALS),
        "size": [round(side, SIZE_DECIMALS) for side in face.size],
        "time": None if times is None else [round(time, TIME_DECIMALS) for time in times],
        "track": face.track,
        "thumb": None,
        "page": None,
    }


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _link(folder: Path, name: object) -> str | None:
    """Address of an output, relative to the page."""
    if inner_path(folder, name) is None:
        return None
    return quote(str(name), errors="surrogateescape")


def _timeline(timeline: Timeline) -> dict[str, object]:
    from comics.pages.timeline import timeline_svg  # matplotlib takes a second to import

    svg = timeline_svg(
        timeline.file.name,
        timeline.tracks,
        timeline.points.__getitem__,
        timeline.fake_threshold,
        timeline.lost_seconds,
    )
    return {
        "name": timeline.file.name,
        # Made here by matplotlib, which escapes the names
        "svg": Markup(svg),
        "tracks": _describe_tracks(timeline.tracks),
    }


def _describe_tracks(tracks: Sequence) -> str:
    """What the plot shows, for those who do not see it."""
    told = [
        f"track {track.track_id}: P(fake) {track.fake_probability:.2f}, "
        f"{track.first_time_s:.1f} to {track.last_time_s:.1f} seconds"
        for track in tracks
    ]
    return "; ".join(told) or "no face found"

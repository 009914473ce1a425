"""Messages of a run: one line per file, and a summary at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comics.inference.files import display_name
from comics.runs.outputs import FAILED, FileStatus
from comics.runs.summary_text import count
from comics.runs.summary_text import describe_summary as describe_summary
from comics.structures import FAKE, VERDICTS
from comics.video.track_verdicts import clock

SHOWN_NAMES = 5


def describe(status: FileStatus) -> str:
    """One line on one file, for people."""
    if status.status == FAILED:
        return f"FAILED   {status.file_name}: {status.reason}"
    if not status.faces:
        text = "no face found"
    elif status.tracks is not None:
        text = _told(status.tracks, status.forged_tracks or 0, status.unclear_tracks or 0)
    else:
        text = _told(status.faces, status.forged_faces, status.unclear_faces)
    if status.kind == "video":
        analysed = count(status.analysed_frames or 0, "analysed frame")
        text += f" in {analysed} of {status.frames}"
        text += "".join(f"; {moment}" for moment in forged_tracks(status)[:SHOWN_NAMES])
    if status.reason:
        text += f" [{status.reason}]"
    return f"{status.status:8} {status.file_name}: {text}"


def forged_tracks(status: FileStatus) -> list[str]:
    """Of each forged face of a video, in how many frames and when it looks forged, for people."""
    return [
        f"#{track['track_id']} forged in {track['forged_frames']} of {track['seen_frames']} frames"
        + "".join(f", {_moment(*moment)}" for moment in track["forged_moments"][:SHOWN_NAMES])
        for track in status.track_verdicts or ()
        if track["verdict"] == VERDICTS[FAKE]
    ]


def _moment(start: float, end: float) -> str:
    first, last = clock(start), clock(end)
    return first if first == last else f"{first}–{last}"


def _told(faces: int, forged: int, unclear: int) -> str:
    text = f"{count(faces, 'face')}, {forged or 'none'} forged"
    return f"{text}, {unclear} unclear" if unclear else text


def describe_passed_over(passed_over: Sequence[tuple[Path, str]]) -> str:
    """What was no input, for people: how many of each kind, and some of their names."""
    kinds: dict[str, list[str]] = {}
    for path, reason in passed_over:
        kinds.setdefault(reason, []).append(display_name(path.name))
    texts = []
    for reason, names in kinds.items():
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        texts.append(f"{len(names)} ({reason}): {', '.join(names[:SHOWN_NAMES])}{more}")
    return "Passed over " + "; ".join(texts)

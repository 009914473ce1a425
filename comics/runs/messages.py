"""Messages of a run: one line per file, and a summary at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comics.inference.files import display_name
from comics.runs.outputs import FAILED, FileStatus

SHOWN_NAMES = 5


def describe(status: FileStatus) -> str:
    """One line on one file, for people."""
    if status.status == FAILED:
        return f"FAILED   {status.file_name}: {status.reason}"
    if not status.faces:
        text = "no face found"
    else:
        text = f"{_count(status.faces, 'face')}, {status.forged_faces or 'none'} forged"
        if status.unclear_faces:
            text += f", {status.unclear_faces} unclear"
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
        f"{summary['unclear']} unclear, {summary['no_forgery_found']} in which no forgery was "
        f"found, {summary['no_face_found']} without a face; {summary['partial']} read in part, "
        f"{summary['failed']} failed."
    )


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

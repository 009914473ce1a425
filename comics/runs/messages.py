"""What a run tells people as it goes: one line per file, and its end."""

from __future__ import annotations

from comics.runs.outputs import FAILED, FileStatus


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

"""The end of a run in a sentence; it imports nothing, for those who only conduct."""

from __future__ import annotations

from collections.abc import Mapping


def describe_summary(summary: Mapping[str, int]) -> str:
    """The end of a run, for people; ``summary`` as ``outputs.summarise`` makes it."""
    return (
        f"{count(summary['files'], 'file')}: {summary['forged_face_found']} with a forged face, "
        f"{summary['unclear']} unclear, {summary['no_forgery_found']} in which no forgery was "
        f"found, {summary['no_face_found']} without a face; {summary['partial']} read in part, "
        f"{summary['failed']} failed."
    )


def count(number: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")

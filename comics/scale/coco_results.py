"""A job's faces as COCO results for a ground truth, whose images are known by their file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from comics.scale.reader import ScaleOutput
from comics.scale.tables import SchemaError


def coco_results(
    output: ScaleOutput, file_names: Sequence[str], image_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Results with the image ids of a ground truth.

    A file of the job is the image whose file name is the end of its own; files that are no image
    of the ground truth are refused, as in any results file.

    Args:
        output: of a job over the ground truth's images.
        file_names, image_ids: of the ground truth, [I] each.

    Raises:
        SchemaError: naming a file that is no image of the ground truth, fits several of them, is
            a video, or comes twice.
    """
    known = _by_last_part(file_names)
    results: list[dict[str, Any]] = []
    seen: dict[int, str] = {}
    for entry, images in output.files():
        if entry["status"] == "failed":
            continue
        name = entry["file_name"]
        if entry["kind"] != "image":
            raise SchemaError(f"{name}: a video, and a ground truth is of pictures")
        image_id = int(image_ids[_image(name, known)])
        if image_id in seen:
            raise SchemaError(f"{name} and {seen[image_id]} are both image {image_id}")
        seen[image_id] = name
        for _, faces in images:
            results += [{"image_id": image_id, **face} for face in faces]
    return results


def _by_last_part(file_names: Sequence[str]) -> Mapping[str, list[tuple[tuple[str, ...], int]]]:
    """Parts of names, and their positions, by their last part."""
    known: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for position, name in enumerate(file_names):
        parts = PurePath(name).parts
        if parts:
            known.setdefault(parts[-1], []).append((parts, position))
    return known


def _image(name: str, known: Mapping[str, list[tuple[tuple[str, ...], int]]]) -> int:
    """The position of the image that a file is."""
    parts = PurePath(name).parts
    fitting = [
        (len(own), position)
        for own, position in known.get(parts[-1], ())
        if own == parts[-len(own) :]
    ]
    if not fitting:
        raise SchemaError(f"{name} is no image of the ground truth")
    longest = max(length for length, _ in fitting)
    chosen = [position for length, position in fitting if length == longest]
    if len(chosen) > 1:
        raise SchemaError(f"{name} fits {len(chosen)} images of the ground truth")
    return chosen[0]

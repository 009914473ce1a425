"""A run's faces as COCO annotations, for the programs in which people correct them.

``comics.runs.results_reader`` reads the run, ``comics.ops.masks`` its masks; the reverse, training
and evaluating with annotations of other programs, is ``comics.data.coco``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from comics.files import atomic_path
from comics.ops.masks import segmentation_to_bitmap
from comics.runs.results_reader import ResultsError, read_members

# Many programs take 0 for the background, so the categories of results.json move by one
CATEGORIES = [
    {"id": 1, "name": "real", "supercategory": "face"},
    {"id": 2, "name": "fake", "supercategory": "face"},
]
FIRST_CATEGORY = 1
SMALLEST_POLYGON = 3  # corners
# What COCO does not know of goes into "attributes", which CVAT shows beside a face
ATTRIBUTES = ("score", "fake_probability", "verdict")


@dataclass(frozen=True)
class Written:
    """What an annotation file holds: pictures, faces on them, and faces of frames left out."""

    pictures: int
    faces: int
    faces_of_videos: int


def write_annotations(folder: str | os.PathLike, path: str | os.PathLike) -> Written:
    """Write the faces on a run's pictures as a COCO annotation file; masks become polygons.

    Names of pictures are below the deepest folder that holds them all. Frames of videos are no
    files that another program could open, so they are left out and counted. Memory does not grow
    with the number of faces.

    Args:
        folder: output folder of a run.
        path: of the file to write.

    Raises:
        ResultsError: if there is no results.json in it, or it is not one of a run.
        OSError: if the file cannot be written.
    """
    results = Path(folder) / "results.json"
    pictures = list(_pictures(results))
    sizes = {picture["id"]: (picture["height"], picture["width"]) for picture in pictures}
    base = _common_folder([picture["file_name"] for picture in pictures])
    counts = {"faces": 0, "left_out": 0}

    def annotations() -> Iterator[dict[str, Any]]:
        for name, face in read_members(results):
            if name != "results":
                continue
            size = sizes.get(face.get("image_id")) if isinstance(face, Mapping) else None
            if size is None:
                counts["left_out"] += 1
                continue
            counts["faces"] += 1
            try:
                yield _annotation(counts["faces"], face, size)
            except (TypeError, KeyError, ValueError) as error:
                fault = f"face {counts['faces']} cannot be read: {error}"
                raise ResultsError(results, fault) from error

    for picture in pictures:
        picture["file_name"] = picture["file_name"].removeprefix(base)
    with atomic_path(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"categories": {json.dumps(CATEGORIES)},\n"images": ')
        _write_list(file, pictures)
        file.write(',\n"annotations": ')
        _write_list(file, annotations())
        file.write("}\n")
    return Written(len(pictures), counts["faces"], counts["left_out"])


def _pictures(results: Path) -> Iterator[dict[str, Any]]:
    """COCO's entries of the images that are files; frames of videos have a "frame"."""
    for name, image in read_members(results):
        if name != "images" or (isinstance(image, Mapping) and "frame" in image):
            continue
        try:
            yield {
                "id": int(image["id"]),
                "file_name": str(image["file_name"]),
                "width": int(image["width"]),
                "height": int(image["height"]),
            }
        except (TypeError, KeyError, ValueError) as error:
            raise ResultsError(results, f"an image without {error}") from error


def _common_folder(names: Iterable[str]) -> str:
    """Folder of all names, with the slash that ends it; "" where there is none."""
    try:
        folder = os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # no picture, or names of which some are absolute
        return ""
    return folder if folder in ("", "/") else f"{folder}/"


def _annotation(number: int, face: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    left, top, width, height = (float(value) for value in face["bbox"])
    entry = {
        "id": number,
        "image_id": face["image_id"],
        "category_id": FIRST_CATEGORY + int(face["category_id"]),
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [],
        "attributes": {key: face[key] for key in ATTRIBUTES if face.get(key) is not None},
    }
    if face.get("segmentation"):
        mask = segmentation_to_bitmap(face["segmentation"], *size).numpy().astype(np.uint8)
        entry |= {"area": int(mask.sum()), "segmentation": _polygons(mask)}
    return entry


def _polygons(mask: np.ndarray) -> list[list[int]]:
    """Outlines [x, y, x, y, ...] of a mask [H, W] uint8; those of a pixel or two are no areas."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [outline for outline in outlines if len(outline) >= SMALLEST_POLYGON]
    return [[int(place) for place in outline.ravel()] for outline in outlines]


def _write_list(file: IO[str], items: Iterable[Mapping[str, Any]]) -> None:
    separator = "["
    for item in items:
        file.write(f"{separator}\n{json.dumps(item)}")
        separator = ","
    file.write("]" if separator == "," else "[]")

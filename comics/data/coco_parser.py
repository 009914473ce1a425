"""Reads a COCO annotation file into records, noting every fault on the way.

One pass serves the reader (``comics.data.coco``), which refuses a set with errors, and the
validation (``comics.data.validation``), which lists everything.

The annotation file is not trusted: numbers are checked before use, and file names must stay below
the image root (relative, no ``..``). The disk is trusted: symbolic links below the root are
followed, wherever they lead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from comics.data.faults import ERROR, Fault
from comics.data.file_names import is_file_name, local_name
from comics.data.json_files import finite, flag, integer, read_json
from comics.data.records import FaceAnnotation, ImageRecord
from comics.ops.masks import Segmentation, segmentation_to_rle
from comics.structures import CLASS_NAMES, FAKE, REAL

REAL_NAMES = frozenset({"real", "genuine", "pristine", "original", "authentic", "untampered"})
FAKE_NAMES = frozenset(
    {"fake", "forged", "forgery", "manipulated", "tampered", "altered", "deepfake", "synthetic"}
)
# Annotators who count the last pixel, and rounding, put an edge this far outside without fault
BORDER_TOLERANCE = 1.0  # pixels
# Sides and pixels beyond which no picture is decoded (OpenCV's limits); larger numbers would only
# cost memory, in pycocotools along every edge of a polygon
MAX_SIDE, MAX_IMAGE_PIXELS = 2**20, 2**30

Report = Callable[..., None]  # report(code, message, image_id=..., annotation_id=...)


@dataclass(frozen=True)
class CocoSet:
    """What a file holds.

    Attributes:
        source: the annotation file.
        records: its images in the order of the file; usable only if ``errors`` is empty.
        category_ids: ids that the file gives to (real, fake); two different ones.
        category_names: names that it gives to them.
        faults: everything that was found wrong.
    """

    source: str
    records: list[ImageRecord]
    category_ids: tuple[int, int]
    category_names: tuple[str, str] = (CLASS_NAMES[REAL], CLASS_NAMES[FAKE])
    faults: list[Fault] = field(default_factory=list)

    @property
    def errors(self) -> list[Fault]:
        """The faults for which the reader refuses the set."""
        return [fault for fault in self.faults if fault.severity == ERROR]


def parse_coco(json_path: str | os.PathLike, image_root: str | os.PathLike | None) -> CocoSet:
    """Read an annotation file; never raises for what is in it, see ``CocoSet.faults``.

    Args:
        json_path: COCO ``{"images", "annotations", "categories"}``.
        image_root: folder that file names start from; None: the annotation file's own folder.
    """
    source = os.fspath(json_path)
    root = os.fspath(Path(source).parent if image_root is None else image_root)
    faults: list[Fault] = []

    def report(code: str, message: str, **ids: int | None) -> None:
        faults.append(Fault(code, source, message, **ids))

    content = _read_json(source, report)
    if content is None:
        return CocoSet(source, [], (REAL, FAKE), faults=faults)
    labels = category_labels(content.get("categories"), report)
    images = _parse_images(content["images"], root, report)
    faces = _parse_annotations(content["annotations"], images, labels, report)
    records = [
        ImageRecord(image_id, name, root, height, width, tuple(faces[image_id]))
        for image_id, (name, height, width) in images.items()
    ]
    if not any(record.targets for record in records):
        report("no-faces", "no image has a face")
    ids = category_ids_of(labels)
    names = category_names_of(content.get("categories"), ids)
    return CocoSet(source, records, ids, names, faults)


def category_ids_of(labels: Mapping[int, int]) -> tuple[int, int]:
    """The ids of (real, fake) in a file; one that it does not have gets a number that is free."""
    ids: dict[int, int] = {}
    for number, label in labels.items():
        ids.setdefault(label, number)
    for label in (REAL, FAKE):
        if label not in ids:
            free = (number for number in (label, *range(len(labels) + 2)))
            taken = {*labels, *ids.values()}
            ids[label] = next(n for n in free if n not in taken)
    return ids[REAL], ids[FAKE]


def category_names_of(categories: Any, ids: tuple[int, int]) -> tuple[str, str]:
    """The names of (real, fake) in a file; ours where it gives none, or one for both."""
    entries = categories if isinstance(categories, list) else []
    known = {
        integer(entry["id"]): str(entry["name"])
        for entry in entries
        if isinstance(entry, dict) and "id" in entry and "name" in entry
    }
    real, fake = (known.get(number, CLASS_NAMES[label]) for label, number in enumerate(ids))
    return (real, fake) if real != fake else (CLASS_NAMES[REAL], CLASS_NAMES[FAKE])


def category_labels(categories: Any, report: Report) -> dict[int, int]:
    """Category id -> 0 real, 1 fake.

    A category is recognised by its name, in any case, "face" or "faces" apart: ``REAL_NAMES`` and
    ``FAKE_NAMES``. Where no name is recognised, the ids 0 and 1 are taken as real and fake, if the
    list holds just these two, or is absent or empty. Anything else is an error.
    """
    if categories is None or categories == []:
        report("categories-by-id", "the file lists no categories")
        return {REAL: REAL, FAKE: FAKE}
    if not isinstance(categories, list):
        report("bad-value", f"'categories' must be a list, got {type(categories).__name__}")
        return {}
    names: dict[int, str] = {}
    for position, category in enumerate(categories):
        where = f"categories[{position}]"
        if _has_keys(category, ("id", "name"), where, report):
            number = integer(category["id"])
            if number is None or number in names:
                report("bad-value", f"{where}: id {category['id']!r} is no integer or used twice")
            elif not isinstance(category["name"], str):
                report("bad-value", f"{where}: name must be a text, got {category['name']!r}")
            else:
                names[number] = str(category["name"])
    labels = {i: label for i, name in names.items() if (label := _label_of(name)) is not None}
    if labels:
        return labels
    if set(names) == {REAL, FAKE}:
        report("categories-by-id", f"no category name means real or fake: {names}")
        return {REAL: REAL, FAKE: FAKE}
    report(
        "unknown-category",
        f"no category name means real or fake, and the ids are not 0 and 1: {names}",
    )
    return {}


def _label_of(name: str) -> int | None:
    words = set(re.findall(r"[^\W\d_]+", name.lower())) - {"face", "faces"}
    if len(words) == 1 and words <= REAL_NAMES:
        return REAL
    if len(words) == 1 and words <= FAKE_NAMES:
        return FAKE
    return None


def _read_json(source: str, report: Report) -> dict | None:
    try:
        content = read_json(source)
    except OSError as error:
        report("unreadable-file", f"cannot be read: {error.strerror or error}")
        return None
    except ValueError as error:
        report("unreadable-file", f"is not JSON: {error}")
        return None
    if not isinstance(content, dict):
        report("unreadable-file", f"must hold a JSON object, holds a {type(content).__name__}")
        return None
    complete = True
    for key in ("images", "annotations"):
        if key not in content:
            report("missing-key", f"has no key {key!r}")
            complete = False
        elif not isinstance(content[key], list):
            report("bad-value", f"{key!r} must be a list, got {type(content[key]).__name__}")
            complete = False
    return content if complete else None


def _parse_images(entries: list, root: str, report: Report) -> dict[int, tuple[str, int, int]]:
    """Image id -> (file name below ``root``, height, width), in the order of the file."""
    images: dict[int, tuple[str, int, int]] = {}
    names: dict[str, int] = {}
    for position, entry in enumerate(entries):
        where = f"images[{position}]"
        if not _has_keys(entry, ("id", "file_name", "width", "height"), where, report):
            continue
        number, name = integer(entry["id"]), entry["file_name"]
        height, width = integer(entry["height"]), integer(entry["width"])
        if number is None:
            report("bad-value", f"{where}: id must be an integer of 64 bits, got {entry['id']!r}")
            continue
        say = partial(report, image_id=number)
        if number in images:
            say("duplicate-image-id", f"{where}: the id is used before")
        elif not isinstance(name, str) or not name:
            say("bad-value", f"{where}: file_name must be a text, got {name!r}")
        elif not is_safe_path(name):
            say("unsafe-path", f"{where}: {name!r} leads out of the image root")
        elif not is_file_name(name):
            say("bad-value", f"{where}: file_name must be the name of a file, got {name!r}")
        elif not height or not width or min(height, width) < 1:
            got = f"{entry['width']!r} x {entry['height']!r}"
            say("bad-value", f"{where}: width and height must be positive integers, got {got}")
        elif max(height, width) > MAX_SIDE or height * width > MAX_IMAGE_PIXELS:
            say("bad-value", f"{where}: no picture of {width} x {height} pixels can be read")
        else:
            name = local_name(name, root)
            if name in names:
                say("duplicate-file-name", f"{name!r} is also image {names[name]}")
            names.setdefault(name, number)
            images[number] = (name, height, width)
    return images


def is_safe_path(name: str) -> bool:
    """Whether a file name from an annotation file stays below the folder it is relative to."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or bool(windows.drive or windows.root)
    return not absolute and ".." not in windows.parts and "\0" not in name


def _parse_annotations(
    entries: list, images: Mapping[int, tuple], labels: Mapping[int, int], report: Report
) -> dict[int, list[FaceAnnotation]]:
    """Image id -> its faces, in the order of the file."""
    faces: dict[int, list[FaceAnnotation]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        if not _has_keys(entry, ("id", "image_id", "category_id", "bbox"), where, report):
            continue
        number, image_id = integer(entry["id"]), integer(entry["image_id"])
        if number is None or image_id is None:
            got = f"{entry['id']!r} and {entry['image_id']!r}"
            message = f"{where}: id and image_id must be integers of 64 bits, got {got}"
            report("bad-value", message, image_id=image_id, annotation_id=number)
            continue
        say = partial(report, image_id=image_id, annotation_id=number)
        if number in seen:
            say("duplicate-annotation-id", f"{where}: the id is used before")
            continue
        seen.add(number)
        if image_id not in images:
            say("unknown-image", f"{where}: the file has no (valid) image with this id")
            continue
        category = integer(entry["category_id"])
        label = None if category is None else labels.get(category)
        if label is None:
            if labels:  # without any label the list of categories itself has been reported
                say("unknown-category", f"category_id {entry['category_id']!r} is not known")
            continue
        face = _parse_face(entry, number, label, images[image_id][1:], where, say)
        if face is not None:
            faces[image_id].append(face)
    return faces


def _parse_face(
    entry: Mapping[str, Any],
    number: int,
    label: int,
    size: tuple[int, int],
    where: str,
    say: Report,
) -> FaceAnnotation | None:
    """One annotation of an image of ``size`` (height, width); None if it is left out or faulty."""
    crowd, area = flag(entry.get("iscrowd", 0)), entry.get("area")
    if crowd is None:
        say("bad-value", f"{where}: iscrowd must be 0, 1 or a bool, got {entry['iscrowd']!r}")
    if area is not None and not (finite(area) and area >= 0):
        say("bad-value", f"{where}: area must be a finite number from 0 on, got {area!r}")
        return None
    box = _parse_box(entry["bbox"], *size, partial(_at, say, where))
    if box is None or crowd is None:
        return None
    mask = _parse_segmentation(entry.get("segmentation"), *size, partial(_at, say, where))
    return FaceAnnotation(number, box, label, mask, crowd, None if area is None else float(area))


def _at(say: Report, where: str, code: str, message: str) -> None:
    """Report a fault of the entry ``where``."""
    say(code, f"{where}: {message}")


def _parse_box(
    box: Any, height: int, width: int, say: Report
) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list) or len(box) != 4 or not all(map(finite, box)):
        say("bad-value", f"bbox must be four finite numbers (x, y, width, height), got {box!r}")
        return None
    x0, y0, box_width, box_height = map(float, box)
    x1, y1 = x0 + box_width, y0 + box_height
    if box_width <= 0 or box_height <= 0:
        say("box-empty", f"bbox {box} has no width or no height")
        return None
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        say("box-outside", f"bbox {box} lies outside the image of {width} x {height}")
        return None
    left, top, right, bottom = np.array(clipped, np.float32)  # as it becomes a tensor
    if right <= left or bottom <= top:
        say("box-empty", f"bbox {box} has no width or no height in single precision")
        return None
    if max(-x0, -y0, x1 - width, y1 - height) > BORDER_TOLERANCE:
        say("box-clipped", f"bbox {box} reaches outside the image of {width} x {height}")
    return clipped


def _parse_segmentation(value: Any, height: int, width: int, say: Report) -> Segmentation | None:
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _parse_rle(value, height, width, say)
    if not isinstance(value, list):
        say("mask-invalid", f"segmentation must be polygons or RLE, got {type(value).__name__}")
        return None
    kept = []
    for position, polygon in enumerate(value):
        fault = _polygon_fault(polygon, height, width)
        if fault:
            say("polygon-invalid", f"polygon {position} {fault}")
        else:
            kept.append(polygon)
    if any(_excess(polygon, height, width) > BORDER_TOLERANCE for polygon in kept):
        say("polygon-outside", f"a polygon reaches outside the image of {width} x {height}")
    return kept or None


def _parse_rle(rle: dict, height: int, width: int, say: Report) -> dict | None:
    size, counts = rle.get("size"), rle.get("counts")
    sides = [integer(side) for side in size] if isinstance(size, list) else size
    if sides != [height, width]:
        say("mask-size", f"the RLE is for {size}, the image is {[height, width]} (height, width)")
        return None
    if isinstance(counts, list):
        runs = [integer(count) for count in counts]
        if any(run is None or run < 0 for run in runs):
            say(
                "mask-invalid",
                "RLE counts must be a text or a list of integers that are not negative",
            )
            return None
        counts = runs
    kept = {"size": sides, "counts": counts}
    try:
        segmentation_to_rle(kept, height, width)
    except ValueError as error:
        say("mask-invalid", str(error))
        return None
    return kept


def _polygon_fault(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list) or not all(map(finite, polygon)):
        return "must be a list of finite numbers"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"needs 3 or more (x, y) points, has {len(polygon)} numbers"
    # pycocotools walks along every edge: a far point would cost memory without limit
    if _excess(polygon, height, width) > max(height, width):
        return "has a point further outside the image than the image is large"
    return None


def _excess(polygon: list[float], height: int, width: int) -> float:
    """How far the polygon's furthest point lies outside the image, pixels; negative inside."""
    xs, ys = polygon[0::2], polygon[1::2]
    return max(-min(xs), -min(ys), max(xs) - width, max(ys) - height)


def _has_keys(entry: Any, keys: tuple[str, ...], where: str, report: Report) -> bool:
    if not isinstance(entry, dict):
        report("bad-value", f"{where} must be an object, got {type(entry).__name__}")
        return False
    missing = [key for key in keys if key not in entry]
    if missing:
        ids = {}
        if where.startswith("images"):
            ids = {"image_id": integer(entry.get("id"))}
        elif where.startswith("annotations"):
            ids = {"image_id": integer(entry.get("image_id"))}
            ids["annotation_id"] = integer(entry.get("id"))
        report("missing-key", f"{where} has no {', '.join(map(repr, missing))}", **ids)
    return not missing

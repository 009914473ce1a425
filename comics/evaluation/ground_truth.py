"""The annotated faces that results are compared with, as numpy columns.

Shape letters: I images; K categories; G annotated faces. Boxes are COCO's (x, y, width, height).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from comics.data.json_files import flag, integer
from comics.evaluation.columns import (
    box_column,
    float_column,
    integer_column,
    positions_of,
    read_json,
    refuse,
    refuse_duplicates,
    require_objects,
)
from comics.evaluation.masks import rle_column


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of a set of images, checked.

    Attributes:
        image_ids: [I] int64, ascending.
        image_sizes: [I, 2] int64 (height, width); -1 where the file does not say.
        file_names: [I] names of the images; "" where the file does not say.
        category_ids: [K] int64, ascending.
        category_names: [K].
        ids: [G] int64 annotation ids; faces keep the order of the file.
        image: [G] int64, position in ``image_ids``.
        category: [G] int64, position in ``category_ids``.
        boxes: [G, 4] float64, pixels.
        areas: [G] float64, square pixels: the file's ``area`` whatever the mode.
        crowd: [G] bool.
        segmentations: [G] as in the file; None where an annotation has none.
        entries: [G] position among the file's annotations.
        source: where it came from, for messages.
        notes: what was filled in or left out on reading.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    file_names: list[str]
    category_ids: np.ndarray
    category_names: list[str]
    ids: np.ndarray
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: list
    entries: np.ndarray
    source: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def rles(self) -> list[dict]:
        """[G] compressed RLEs.

        Polygons of fewer than three points are left out; a face of nothing else gets its box as
        its mask. Both as in training, and noted.

        Raises:
            ValueError: naming the first annotation without a mask, or with one that does not fit.
        """
        where = f"{self.source}, annotations"
        missing = np.array([value is None for value in self.segmentations], dtype=bool)
        refuse(
            missing,
            where,
            lambda i: f"id {self.ids[i]} has no mask; evaluate boxes only",
            self.entries,
        )
        masks = self._without_degenerate_polygons(where)
        return rle_column(masks, self.image_sizes[self.image], where, self.entries)[0]

    def _without_degenerate_polygons(self, where: str) -> list:
        masks, changed = [], []
        for number, mask in enumerate(self.segmentations):
            if isinstance(mask, list):
                kept = [p for p in mask if not (isinstance(p, list) and len(p) < 6)]
                if len(kept) < len(mask):
                    changed.append(int(self.ids[number]))
                    x, y, width, height = self.boxes[number].tolist()
                    right, bottom = x + width, y + height
                    mask = kept or [[x, y, right, y, right, bottom, x, bottom]]
            masks.append(mask)
        if changed:
            self.notes.append(
                f"{where}: {len(changed)} masks have a polygon of fewer than three points, which "
                f"is left out (if it is the only one, the box is the mask); first: id {changed[0]}"
            )
        return masks


def load_ground_truth(source: str | os.PathLike | Mapping | GroundTruth | Any) -> GroundTruth:
    """Read ground truth from a COCO file (also gzipped), its content, or a pycocotools ``COCO``.

    ``iscrowd`` is 0 where absent, ``area`` is box width times height; annotations of images that
    the file does not list are left out. All of that is noted.
    An ``ignore`` key is not read: the COCO evaluation overwrites it with ``iscrowd``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the entry: missing fields, unknown category, duplicate ids, a box of
            negative size.
    """
    if isinstance(source, GroundTruth):
        return source
    content, name = source, "ground truth"
    if isinstance(source, (str, os.PathLike)):
        content, name = read_json(source), os.fspath(source)
    elif hasattr(source, "dataset"):
        content = source.dataset
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} must be a COCO object, got {type(content).__name__}")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{name} has no {key!r}")
        require_objects(content[key], f"{name}, {key}")
    return _from_content(content, name)


def _from_content(content: Mapping, name: str) -> GroundTruth:
    where = f"{name}, annotations"
    images, categories, entries = (content[key] for key in ("images", "categories", "annotations"))
    image_ids, image_order = _unique_ids(images, f"{name}, images")
    category_ids, category_order = _unique_ids(categories, f"{name}, categories")
    images = [images[i] for i in image_order]
    categories = [categories[i] for i in category_order]
    ids = integer_column(entries, "id", where)
    refuse_duplicates(ids, where, "annotation id")
    image_id = integer_column(entries, "image_id", where)
    image = positions_of(image_id, image_ids)
    category_id = integer_column(entries, "category_id", where)
    category = positions_of(category_id, category_ids)
    refuse(category < 0, where, lambda i: f"id {ids[i]}: category {category_id[i]} is not declared")
    boxes = box_column(entries, where)
    notes: list[str] = []
    areas, crowd = _areas(entries, boxes, where, notes), _crowd(entries, where, notes)
    kept = np.flatnonzero(image >= 0)
    if len(kept) < len(ids):
        first = int(np.argmax(image < 0))
        notes.append(
            f"{where}: {len(ids) - len(kept)} belong to no image of the file and are left out, as "
            f"COCO does; first: id {ids[first]}, image {image_id[first]}"
        )
    return GroundTruth(
        image_ids=image_ids,
        image_sizes=_image_sizes(images, f"{name}, images"),
        file_names=[str(entry.get("file_name", "")) for entry in images],
        category_ids=category_ids,
        category_names=[str(entry.get("name", entry["id"])) for entry in categories],
        ids=ids[kept],
        image=image[kept],
        category=category[kept],
        boxes=boxes[kept],
        areas=areas[kept],
        crowd=crowd[kept],
        segmentations=[entries[i].get("segmentation") or None for i in kept.tolist()],
        entries=kept,
        source=name,
        notes=notes,
    )


def _unique_ids(entries: list[Mapping], where: str) -> tuple[np.ndarray, np.ndarray]:
    ids = integer_column(entries, "id", where)
    refuse_duplicates(ids, where, "id")
    order = np.argsort(ids)
    return ids[order], order


def _image_sizes(images: list[Mapping], where: str) -> np.ndarray:
    sizes = np.full((len(images), 2), -1, dtype=np.int64)
    for row, entry in zip(sizes, images, strict=True):
        for place, key in enumerate(("height", "width")):
            if key in entry:
                side = integer(entry[key])
                if side is None or side < 1:
                    raise ValueError(
                        f"{where}: id {entry['id']}: height and width must be positive integers, "
                        f"got {entry[key]!r}"
                    )
                row[place] = side
    return sizes


def _areas(entries: list[Mapping], boxes: np.ndarray, where: str, notes: list[str]) -> np.ndarray:
    missing = np.array([entry.get("area") is None for entry in entries], dtype=bool)
    given = [
        entry if "area" in entry and entry["area"] is not None else {"area": 0.0}
        for entry in entries
    ]
    areas = float_column(given, "area", where)
    refuse(areas < 0, where, lambda i: f"'area' must not be negative, got {areas[i]}")
    if not missing.any():
        return areas
    notes.append(
        f"{where}: {missing.sum()} of {len(entries)} have no 'area'; "
        "box width x height decides their size class"
    )
    return np.where(missing, boxes[:, 2] * boxes[:, 3], areas)


def _crowd(entries: list[Mapping], where: str, notes: list[str]) -> np.ndarray:
    missing = sum("iscrowd" not in entry for entry in entries)
    if missing:
        notes.append(f"{where}: {missing} of {len(entries)} have no 'iscrowd'; taken as 0")
    flags = [flag(entry.get("iscrowd", 0)) for entry in entries]
    faulty = np.array([value is None for value in flags], dtype=bool)
    refuse(
        faulty,
        where,
        lambda i: f"'iscrowd' must be 0, 1 or a bool, got {entries[i]['iscrowd']!r}",
    )
    return np.array(flags, dtype=bool)

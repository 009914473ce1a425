"""Detections in COCO's results format: reading and checking them, and writing them as a stream.

A results file is a JSON list of ``{"image_id", "category_id", "score", "bbox" and/or
"segmentation"}``; boxes are (x, y, width, height), masks RLE. Shape letter: D detections.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

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
from comics.evaluation.ground_truth import GroundTruth
from comics.evaluation.masks import rle_column
from comics.files import atomic_path

FAKE_PROBABILITY = "fake_probability"  # optional field: P(fake) of the detected face


@dataclass(frozen=True)
class Detections:
    """Results for a set of images, checked against its ground truth; in the order of the file.

    Attributes:
        image: [D] int64, position in the ground truth's ``image_ids``.
        category: [D] int64, position in its ``category_ids``.
        scores: [D] float64, finite; higher is surer.
        boxes: [D, 4] float64 (x, y, width, height) in pixels.
        segmentations: [D] as in the file, None where a result has none.
        mask_sizes: [D, 2] (height, width) that the masks must have; -1 unknown.
        fake_probability: [D] float64, NaN where the file does not say.
        source: where it came from, for messages.
        notes: what was filled in on reading.
    """

    image: np.ndarray
    category: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    segmentations: list
    mask_sizes: np.ndarray
    fake_probability: np.ndarray
    source: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def rles(self) -> list[dict]:
        """[D] compressed RLEs; errors as ``masks``."""
        return self.masks[0]

    @property
    def mask_areas(self) -> np.ndarray:
        """[D] float64, pixels set in each mask; errors as ``masks``."""
        return self.masks[1]

    @cached_property
    def masks(self) -> tuple[list[dict], np.ndarray]:
        """[D] compressed RLEs, checked, and the pixels set in each, [D] float64.

        Raises:
            ValueError: naming the first result without a mask, or with one that does not fit. (A
                box never stands in for a missing mask, as it does in pycocotools.)
        """
        missing = np.array([value is None for value in self.segmentations], dtype=bool)
        refuse(missing, self.source, lambda i: "no 'segmentation'; evaluate boxes only")
        return rle_column(self.segmentations, self.mask_sizes, self.source)


def load_results(
    source: str | os.PathLike | list | Detections, ground_truth: GroundTruth
) -> Detections:
    """Read a COCO results file (also gzipped) or its content.

    A result without a box gets the bounding box of its mask; an empty list is legal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the entry by its position (from 0): missing fields, unknown image or
            category, a score that is not finite, a box of negative size, a duplicate ``id``.
    """
    if isinstance(source, Detections):
        return source
    entries: Any = source
    where = "results"
    if isinstance(source, (str, os.PathLike)):
        entries, where = read_json(source), os.fspath(source)
    require_objects(entries, where)
    if any("id" in entry for entry in entries):
        refuse_duplicates(integer_column(entries, "id", where), where, "id")
    image_id = integer_column(entries, "image_id", where)
    image = positions_of(image_id, ground_truth.image_ids)
    refuse(image < 0, where, lambda i: f"image {image_id[i]} is not in the ground truth")
    category_id = integer_column(entries, "category_id", where)
    category = positions_of(category_id, ground_truth.category_ids)
    known = ", ".join(map(str, ground_truth.category_ids))
    refuse(category < 0, where, lambda i: f"category {category_id[i]} is none of {known}")
    scores = float_column(entries, "score", where)
    sizes = ground_truth.image_sizes[image]
    segmentations = [entry.get("segmentation") or None for entry in entries]
    notes: list[str] = []
    detections = Detections(
        image=image,
        category=category,
        scores=scores,
        boxes=_boxes(entries, segmentations, sizes, where, notes),
        segmentations=segmentations,
        mask_sizes=sizes,
        fake_probability=_fake_probability(entries, where),
        source=where,
        notes=notes,
    )
    _note_repeated(detections, notes)
    return detections


def _boxes(
    entries: list[Mapping], segmentations: list, sizes: np.ndarray, where: str, notes: list[str]
) -> np.ndarray:
    without = np.array([not entry.get("bbox") for entry in entries], dtype=bool)
    if not without.any():
        return box_column(entries, where)
    lacking = np.array([mask is None for mask in segmentations], dtype=bool)
    refuse(without & lacking, where, lambda i: "neither 'bbox' nor 'segmentation'")
    numbers = np.flatnonzero(without)
    masks, _ = rle_column([segmentations[i] for i in numbers], sizes[without], where, numbers)
    boxes = box_column(entries, where, default=(0, 0, 0, 0))
    boxes[without] = coco_mask.toBbox(masks)
    notes.append(f"{where}: {without.sum()} results have no 'bbox'; their masks' boxes are used")
    return boxes


def _fake_probability(entries: list[Mapping], where: str) -> np.ndarray:
    present = np.array([entry.get(FAKE_PROBABILITY) is not None for entry in entries], dtype=bool)
    if not present.any():
        return np.full(len(entries), np.nan)
    values = float_column(entries, FAKE_PROBABILITY, where, default=0.0)
    outside = (values < 0) | (values > 1)
    refuse(outside, where, lambda i: f"{FAKE_PROBABILITY} {values[i]} is outside [0, 1]")
    return np.where(present, values, np.nan)


def _note_repeated(detections: Detections, notes: list[str]) -> None:
    # Merging the parts of several processes can repeat images; COCO would count them as errors.
    table = np.column_stack(
        (detections.image, detections.category, detections.scores, detections.boxes)
    )
    order = np.lexsort(table.T)
    same = (table[order][1:] == table[order][:-1]).all(axis=1)
    if same.any():
        example = int(order[1:][same].min())
        notes.append(
            f"{detections.source}: {same.sum()} results repeat another one exactly (image, "
            f"category, score and box), e.g. entry {example}; each copy counts as a detection"
        )


class ResultsWriter:
    """Write results one image at a time: a JSON list on disk, memory does not grow.

    The file has its final name only once it is complete: when the ``with`` block ends without an
    exception.

    Args:
        path: the results file to make; an existing one is replaced at the end.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.count = 0
        self._file: Any = None
        self._resources = ExitStack()

    def __enter__(self) -> ResultsWriter:
        temporary = self._resources.enter_context(atomic_path(self.path))
        self._file = self._resources.enter_context(open(temporary, "w", encoding="utf-8"))
        self._file.write("[")
        return self

    def write(self, entries: Iterable[Mapping]) -> None:
        """Append results (COCO's keys; NaN and infinite numbers raise ``ValueError``)."""
        for entry in entries:
            text = json.dumps(entry, allow_nan=False, separators=(",", ":"))
            self._file.write((",\n" if self.count else "\n") + text)
            self.count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._resources.__exit__(kind, error, trace)
            return
        with self._resources:
            self._file.write("\n]\n")

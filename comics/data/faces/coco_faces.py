"""A multi-face COCO set as a manifest: one row per face, its box cut out of the photo.

What a face was forged with, and whose face it is, is read from further keys of its annotation:
``method``, ``source``, ``target``, ``identity`` (of a real face, also on the image), ``video`` and
``frame`` of the image, ``forgery.altered`` (RLE of the altered pixels; else the segmentation is the
mask). A photo is a group. Crowd regions are no faces. Boxes are the annotated ones, or those of a
results file.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from comics.data.coco import load_coco
from comics.data.faces.manifest import REAL_METHOD, Manifest
from comics.data.faces.manifest_files import ManifestBuilder
from comics.data.json_files import finite, integer, read_json
from comics.data.records import DatasetError, FaceAnnotation, ImageRecord
from comics.ops.boxes import box_iou, xywh_to_xyxy
from comics.ops.masks import segmentation_to_rle
from comics.structures import CLASS_NAMES, FAKE

logger = logging.getLogger(__name__)

UNKNOWN_METHOD = "unknown"  # what fakes without ``method`` have: a domain of their own


def coco_manifest(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    results: str | os.PathLike | None = None,
    min_iou: float = 0.5,
    min_score: float = 0.5,
) -> Manifest:
    """The faces of an annotation file.

    Args:
        json_path, image_root: as ``load_coco``.
        results: detections in COCO's format; each annotated face gets the box of the detection
            that is matched to it, whatever its class, and is left out where there is none.
        min_iou: a detection is an annotated face from this overlap on.
        min_score: detections below are not looked at.

    Raises:
        DatasetError: if a file cannot be used, or no face is left.
    """
    records = load_coco(json_path, image_root)
    extras = _extras(json_path)
    detected = None if results is None else _detections(results, min_score)
    root = str(Path(json_path).parent if image_root is None else image_root)
    builder = ManifestBuilder(f"{json_path} (annotations)", root)
    missed = 0
    for record in records:
        annotated = [face.box for face in record.targets]
        boxes: Sequence[Sequence[float] | None] = annotated
        if detected is not None:
            boxes = match_boxes(annotated, detected.get(record.image_id, []), min_iou)
        for face, box in zip(record.targets, boxes, strict=True):
            if box is None:
                missed += 1
                continue
            builder.add(face.annotation_id, _row(record, face, box, extras))
    if missed:
        logger.warning("%s: %d annotated faces have no detection in %s", json_path, missed, results)
    return builder.build()


def match_boxes(
    annotated: Sequence[Sequence[float]], detected: Sequence[Sequence[float]], min_iou: float
) -> list[list[float] | None]:
    """The detected box of each annotated one, (x0, y0, x1, y1); None where there is none.

    One to one, of greatest total overlap (Hungarian algorithm) among pairs of at least ``min_iou``.
    """
    result: list[list[float] | None] = [None] * len(annotated)
    if not len(annotated) or not len(detected):
        return result
    iou = box_iou(torch.tensor(annotated, dtype=torch.float64), torch.tensor(detected).double())
    overlap = np.where(iou.numpy() >= min_iou, iou.numpy(), 0.0)
    for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
        if overlap[row, column] > 0:
            result[row] = [float(value) for value in detected[column]]
    return result


def _row(
    record: ImageRecord, face: FaceAnnotation, box: Sequence[float], extras: dict
) -> dict[str, str]:
    annotation, image = extras["annotations"][face.annotation_id], extras["images"][record.image_id]
    fake = face.label == FAKE
    identity = annotation.get("identity") or image.get("identity")
    row = {
        "path": record.file_name,
        "label": CLASS_NAMES[face.label],
        "method": (annotation.get("method") or UNKNOWN_METHOD) if fake else REAL_METHOD,
        "source": annotation.get("source") or (None if fake else identity),
        "target": annotation.get("target") or identity,
        "video": annotation.get("video"),
        "frame": annotation.get("frame", image.get("frame")),
        "compression": image.get("compression"),
        "group": record.file_name,
        "mask": _mask(record, face, annotation) if fake else None,
        **dict(zip(("x0", "y0", "x1", "y1"), map(repr, map(float, box)), strict=True)),
    }
    return {column: "" if value is None else str(value) for column, value in row.items()}


def _mask(record: ImageRecord, face: FaceAnnotation, annotation: dict[str, Any]) -> str | None:
    forgery = annotation.get("forgery")
    segmentation = forgery.get("altered") if isinstance(forgery, dict) else None
    segmentation = segmentation or face.segmentation
    if segmentation is None:
        return None
    try:
        rle = segmentation_to_rle(segmentation, record.height, record.width)
    except ValueError as error:
        raise DatasetError(
            f"{record.path}: annotation {face.annotation_id}: its mask cannot be used: {error}"
        ) from error
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return json.dumps({"size": [int(n) for n in rle["size"]], "counts": text})


def _extras(json_path: str | os.PathLike) -> dict[str, dict[int | None, dict]]:
    """Images and annotations of a file by id, with the keys that its records leave out."""
    content = read_json(json_path)
    return {
        kind: {integer(entry["id"]): entry for entry in content[kind]}
        for kind in ("images", "annotations")
    }


def _detections(path: str | os.PathLike, min_score: float) -> dict[int, list[list[float]]]:
    """Boxes (x0, y0, x1, y1) by image id."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    try:
        for number, entry in enumerate(read_json(path)):
            box, score = entry["bbox"], entry.get("score", 1.0)
            image_id = integer(entry["image_id"])
            if not isinstance(box, list) or len(box) != 4 or not all(map(finite, box)):
                raise ValueError(f"result {number}: bbox {box!r} is not four numbers")
            if not finite(score):
                raise ValueError(f"result {number}: score {score!r} is not a finite number")
            if image_id is None:
                raise ValueError(
                    f"result {number}: image_id {entry['image_id']!r} is not an integer"
                )
            if score >= min_score:
                corners = xywh_to_xyxy(torch.tensor([box], dtype=torch.float64))
                found[image_id].append(corners[0].tolist())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not a COCO results file: {type(error).__name__}: {error}"
        ) from error
    return found

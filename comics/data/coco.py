"""COCO annotation files of multi-face sets: reading, writing, and results of detectors.

OpenForensics' files are read as they are (categories 0 Real, 1 Fake; polygons; ids from 0; file
names such as ``Images/Train/x.jpg``); so is any COCO file whose categories
``comics.data.coco_parser.category_labels`` recognises. What becomes of faults is in
``comics.data.faults.TREATMENTS``.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from comics.data.coco_parser import parse_coco
from comics.data.records import DatasetError, FaceAnnotation, ImageRecord
from comics.files import atomic_path
from comics.ops.boxes import xyxy_to_xywh
from comics.ops.masks import bitmap_to_rle, segmentation_to_rle
from comics.structures import CLASS_NAMES, Faces

__all__ = [
    "DatasetError",
    "FaceAnnotation",
    "ImageRecord",
    "faces_to_results",
    "load_coco",
    "write_coco",
]

logger = logging.getLogger(__name__)

SHOWN_ERRORS = 10  # of a refused set; comics check lists them all


def load_coco(
    json_path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> list[ImageRecord]:
    """The images of an annotation file with their faces, in the order of the file.

    No image is opened. Repaired faults (``comics.data.faults``) are counted in one warning.

    Args:
        json_path: the annotation file.
        image_root: folder that file names start from; None: the annotation file's own folder.

    Raises:
        DatasetError: naming file, id and fault, if the set has an error of ``TREATMENTS``.
    """
    coco = parse_coco(json_path, image_root)
    if coco.errors:
        shown = "\n  ".join(map(str, coco.errors[:SHOWN_ERRORS]))
        more = len(coco.errors) - SHOWN_ERRORS
        tail = f"\n  and {more} more" if more > 0 else ""
        raise DatasetError(
            f"{coco.source} cannot be used:\n  {shown}{tail}\n"
            f"comics check lists every fault of a set"
        )
    if coco.faults:
        counts = Counter((fault.code, fault.treatment) for fault in coco.faults)
        listed = "; ".join(f"{n} x {code} ({treat})" for (code, treat), n in counts.items())
        logger.warning("%s: %s. First: %s", coco.source, listed, coco.faults[0])
    return coco.records


def write_coco(
    json_path: str | os.PathLike,
    records: Iterable[ImageRecord],
    info: dict[str, Any] | None = None,
) -> None:
    """Write records as a COCO file with OpenForensics' categories, 0 Real and 1 Fake.

    Ids, file names and segmentations are kept as they are. The file appears under its name only
    when it is complete.

    Raises:
        DatasetError: for an image or annotation id that is used twice.
    """
    images, annotations = [], []
    for record in records:
        images.append(
            {
                "id": record.image_id,
                "file_name": record.file_name,
                "width": record.width,
                "height": record.height,
            }
        )
        annotations += [_annotation_entry(record, face) for face in record.faces]
    for kind, entries in (("image", images), ("annotation", annotations)):
        for number, times in Counter(entry["id"] for entry in entries).most_common(1):
            if times > 1:
                raise DatasetError(f"{json_path}: {kind} id {number} is used {times} times")
    content = {
        "info": info or {},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": label, "name": name, "supercategory": "Face"}
            for label, name in enumerate(CLASS_NAMES)
        ],
    }
    with atomic_path(json_path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file)


def faces_to_results(
    faces: Faces, image_id: int, category_ids: Sequence[int] = (0, 1)
) -> list[dict[str, Any]]:
    """Detections of one image as COCO results, ready for JSON.

    Args:
        faces: with scores; boxes in the coordinates of the original image.
        image_id: as in the annotation file.
        category_ids: ids that the annotation file gives to (real, fake).

    Returns:
        One dict per face: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``,
        and ``segmentation`` (RLE) and ``fake_probability`` where the faces have them.

    Raises:
        ValueError: for faces without scores.
    """
    if faces.scores is None:
        raise ValueError(f"image {image_id}: results need scores, these faces have none")
    results = []
    boxes = xyxy_to_xywh(faces.boxes).tolist()
    for i, (box, label, score) in enumerate(
        zip(boxes, faces.labels.tolist(), faces.scores.tolist(), strict=True)
    ):
        result = {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": box,
            "score": score,
        }
        if faces.masks is not None:
            result["segmentation"] = bitmap_to_rle(faces.masks[i])
        if faces.fake_probability is not None:
            result["fake_probability"] = float(faces.fake_probability[i])
        results.append(result)
    return results


def _annotation_entry(record: ImageRecord, face: FaceAnnotation) -> dict[str, Any]:
    x0, y0, x1, y1 = face.box
    entry = {
        "id": face.annotation_id,
        "image_id": record.image_id,
        "category_id": face.label,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": int(face.iscrowd),
    }
    if face.segmentation is not None:
        rle = segmentation_to_rle(face.segmentation, record.height, record.width)
        entry["area"] = float(coco_mask.area(rle))
        entry["segmentation"] = _json_segmentation(face.segmentation)
    return entry


def _json_segmentation(segmentation: Any) -> Any:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return {"size": [int(n) for n in segmentation["size"]], "counts": text}
    return [[float(value) for value in polygon] for polygon in segmentation]

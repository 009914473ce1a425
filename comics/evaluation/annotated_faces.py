"""The ground truth of a data set entry: what the reader of training keeps of its annotation file.

Training and validation go by one reader and one set of rules, ``comics.data.coco_parser``: what it
accepts can be measured on, with the same faces and the same masks. A file of annotations that is
compared with a file of results alone is read by ``comics.evaluation.ground_truth``, without torch.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from comics.data.catalog import DatasetFiles
from comics.data.coco_parser import CocoSet, parse_coco
from comics.data.records import DatasetError, FaceAnnotation, box_bitmap
from comics.evaluation.ground_truth import GroundTruth
from comics.ops.masks import bitmap_to_rle, segmentation_to_rle


def read_entry(files: DatasetFiles) -> CocoSet:
    """The annotation file of an entry, which is to be measured on.

    Raises:
        DatasetError: naming the first fault for which the reader refuses it.
    """
    coco = parse_coco(*files)
    if coco.errors:
        raise DatasetError(f"{files.annotations} cannot be used: {coco.errors[0]}")
    return coco


def ground_truth_of(coco: CocoSet) -> GroundTruth:
    """The annotated faces of a set without errors, as results are compared with.

    As in training, a face without a usable mask has its box as mask; that is noted. Faces without
    an area get that of their box.
    """
    records = sorted(coco.records, key=lambda record: record.image_id)
    faces = [(place, face) for place, record in enumerate(records) for face in record.faces]
    order = np.argsort(coco.category_ids)
    ids = np.array(coco.category_ids, dtype=np.int64)
    names = [coco.category_names[i] for i in order]
    corners = np.array([face.box for _, face in faces], dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    sides = boxes[:, 2] * boxes[:, 3]
    areas = [
        side if face.area is None else face.area
        for (_, face), side in zip(faces, sides, strict=True)
    ]
    masks, replaced = _masks(faces, [(record.height, record.width) for record in records])
    notes = _notes(coco, faces, replaced)
    return GroundTruth(
        image_ids=np.array([record.image_id for record in records], dtype=np.int64),
        image_sizes=np.array(
            [(record.height, record.width) for record in records], dtype=np.int64
        ).reshape(-1, 2),
        file_names=[record.file_name for record in records],
        category_ids=ids[order],
        category_names=names,
        ids=np.array([face.annotation_id for _, face in faces], dtype=np.int64),
        image=np.array([place for place, _ in faces], dtype=np.int64),
        category=np.array(
            [int(np.flatnonzero(order == face.label)[0]) for _, face in faces], dtype=np.int64
        ),
        boxes=boxes,
        areas=np.array(areas, dtype=np.float64),
        crowd=np.array([face.iscrowd for _, face in faces], dtype=bool),
        segmentations=masks,
        entries=np.arange(len(faces)),
        source=coco.source,
        notes=notes,
    )


def _masks(
    faces: list[tuple[int, FaceAnnotation]], sizes: list[tuple[int, int]]
) -> tuple[list[dict], int]:
    """The compressed RLE of each face, and how many are boxes in place of masks."""
    masks, replaced = [], 0
    for place, face in faces:
        rle = None
        if face.segmentation is not None:
            rle = segmentation_to_rle(face.segmentation, *sizes[place])
            if not coco_mask.area(rle):
                rle = None
        if rle is None:
            rle = bitmap_to_rle(box_bitmap(face.box, *sizes[place]))
            replaced += 1
        masks.append(rle)
    return masks, replaced


def _notes(coco: CocoSet, faces: list[tuple[int, FaceAnnotation]], replaced: int) -> list[str]:
    without_area = sum(face.area is None for _, face in faces)
    notes = []
    if without_area:
        notes.append(
            f"{coco.source}: {without_area} of {len(faces)} faces have no 'area'; box width x "
            "height decides their size class"
        )
    if replaced:
        notes.append(
            f"{coco.source}: {replaced} of {len(faces)} faces have no usable mask; their boxes are "
            "their masks, as in training"
        )
    if coco.faults:
        notes.append(
            f"{coco.source}: read with {len(coco.faults)} repairs, which comics check "
            f"lists; first: {coco.faults[0].message}"
        )
    return notes

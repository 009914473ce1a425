"""Detectron2's dictionaries and ``Instances``, and our images and ``Faces``: either from the other.

Shape letters: N faces; H, W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from comics.ops.masks import segmentation_to_bitmap
from comics.structures import DetectionBatch, Faces

FORMATS = ("RGB", "BGR")  # of INPUT.FORMAT that images are passed in
PREDICTION_FIELDS = {
    "scores": "scores",
    "labels": "pred_classes",
    "masks": "pred_masks",
    "fake_probability": "fake_probability",
}


def to_rgb(image: Tensor, image_format: str) -> Tensor:
    """[3, H, W] in the order of ``INPUT.FORMAT`` to RGB; also the way back.

    Raises:
        ValueError: for another format than "RGB" or "BGR".
    """
    if image_format not in FORMATS:
        raise ValueError(f"INPUT.FORMAT must be one of {FORMATS}, got {image_format!r}")
    return image.flip(0) if image_format == "BGR" else image


def ground_truth_faces(instances: Instances) -> Faces:
    """``gt_boxes``, ``gt_classes`` and, where there, ``gt_masks`` (bitmaps or polygons)."""
    masks = None
    if instances.has("gt_masks"):
        masks = _bitmaps(instances.gt_masks, instances.image_size)
    return Faces(
        boxes=instances.gt_boxes.tensor.float(),
        image_size=tuple(instances.image_size),
        labels=instances.gt_classes.to(torch.int64),
        masks=masks,
    )


def ground_truth_instances(faces: Faces) -> Instances:
    """The way back, masks as ``BitMasks``."""
    instances = Instances(faces.image_size)
    instances.gt_boxes = Boxes(faces.boxes)
    instances.gt_classes = faces.labels
    if faces.masks is not None:
        instances.gt_masks = BitMasks(faces.masks)
    return instances


def prediction_instances(faces: Faces) -> Instances:
    """``pred_boxes``, ``scores``, ``pred_classes``; ``pred_masks`` [N, H, W] bool and
    ``fake_probability`` where there are any.
    """
    instances = Instances(faces.image_size)
    instances.pred_boxes = Boxes(faces.boxes)
    for ours, theirs in PREDICTION_FIELDS.items():
        value = getattr(faces, ours)
        if value is not None:
            instances.set(theirs, value)
    return instances


def predicted_faces(instances: Instances) -> Faces:
    """The way back; fields that are not there are None, others are left behind."""
    found = {
        ours: instances.get(theirs)
        for ours, theirs in PREDICTION_FIELDS.items()
        if instances.has(theirs)
    }
    if "masks" in found:
        found["masks"] = found["masks"].bool()
    return Faces(
        boxes=instances.pred_boxes.tensor.float(),
        image_size=tuple(instances.image_size),
        **{**found, "labels": found["labels"].to(torch.int64)},
    )


def batch_to_inputs(
    batch: DetectionBatch, image_format: str, *, with_instances: bool
) -> list[dict[str, Any]]:
    """One of our batches as Detectron2's list of dictionaries."""
    keys: Sequence[Tensor | None] = batch.key_images or [None] * len(batch)
    return [
        sample_to_input(
            image,
            key,
            faces if with_instances else None,
            image_format=image_format,
            image_id=image_id,
            file_name=file_name,
            original_size=size,
        )
        for image, key, faces, image_id, file_name, size in zip(
            batch.images,
            keys,
            batch.targets,
            batch.image_ids,
            batch.file_names,
            batch.original_sizes,
            strict=True,
        )
    ]


def sample_to_input(
    image: Tensor,
    key_image: Tensor | None,
    faces: Faces | None,
    *,
    image_format: str,
    image_id: int,
    file_name: str,
    original_size: tuple[int, int],
) -> dict[str, Any]:
    """What Detectron2's models take for one image, and ``key_image``, the second view.

    Args:
        image, key_image: [3, H, W] uint8 RGB; no second view: None.
        faces: ground truth; None leaves "instances" out.
        image_format: channel order to write.
        image_id, file_name: of the image.
        original_size: (height, width) that detections are to be expressed in.
    """
    height, width = original_size
    item: dict[str, Any] = {
        "image": to_rgb(image, image_format),
        "height": height,
        "width": width,
        "image_id": image_id,
        "file_name": file_name,
    }
    if key_image is not None:
        item["key_image"] = to_rgb(key_image, image_format)
    if faces is not None:
        item["instances"] = ground_truth_instances(faces)
    return item


def output_size(item: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) that the detections of a dictionary are asked for in."""
    height, width = item["image"].shape[-2:]
    return int(item.get("height", height)), int(item.get("width", width))


def _bitmaps(masks: BitMasks | PolygonMasks, size: tuple[int, int]) -> Tensor:
    if isinstance(masks, BitMasks):
        return masks.tensor.bool()
    bitmaps = torch.zeros((len(masks), *size), dtype=torch.bool)
    for row, polygons in zip(bitmaps, masks.polygons, strict=True):
        row.copy_(segmentation_to_bitmap([polygon.tolist() for polygon in polygons], *size))
    return bitmaps

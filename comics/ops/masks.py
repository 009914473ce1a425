"""Masks in their three forms, and the ways between them.

* bitmap: [H, W] bool tensor;
* polygon: COCO's list of flat ``[x0, y0, x1, y1, ...]`` lists, in pixels;
* RLE: COCO's run-length encoding, ``{"size": [H, W], "counts": str | list[int]}``.

pycocotools does the arithmetic. Its RLE is column-major; that stays inside this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

Polygons = Sequence[Sequence[float]]
Segmentation = Polygons | dict


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> dict:
    """Any COCO segmentation (polygons, compressed or uncompressed RLE) to a compressed RLE.

    Raises:
        ValueError: for a polygon with fewer than three points or an odd number of coordinates,
            or an RLE whose size or counts do not fit (height, width).
    """
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width)
    if not segmentation:
        raise ValueError("empty list of polygons")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs 3 or more (x, y) points, got {len(polygon)} numbers")
        if not np.isfinite(polygon).all():
            raise ValueError("a polygon has a coordinate that is not finite")
    parts = coco_mask.frPyObjects([list(map(float, p)) for p in segmentation], height, width)
    return coco_mask.merge(parts)


def segmentation_to_bitmap(segmentation: Segmentation, height: int, width: int) -> Tensor:
    """Any COCO segmentation to a [height, width] bool bitmap; errors as ``segmentation_to_rle``."""
    return rle_to_bitmap(segmentation_to_rle(segmentation, height, width))


def rle_to_bitmap(rle: dict) -> Tensor:
    """Compressed RLE to a bool bitmap [H, W]."""
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(rle))).bool()


def bitmap_to_rle(bitmap: Tensor) -> dict:
    """[H, W] bool bitmap to a compressed RLE whose counts are a str, ready for JSON.

    Only the columns between the mask's first and last are looked at pixel by pixel: a face is a
    small part of a photo.
    """
    pixels = bitmap.detach().cpu().numpy()
    height, width = pixels.shape
    columns = np.flatnonzero(pixels.any(axis=0))
    if not len(columns):
        runs = np.array([height * width])
    else:
        first, end = columns[0], columns[-1] + 1
        flat = np.zeros(height * (end - first) + 2, dtype=np.int8)  # not set before and after
        flat[1:-1] = pixels[:, first:end].T.reshape(-1)
        changes = first * height + np.flatnonzero(np.diff(flat))
        runs = np.diff(changes, prepend=0, append=height * width)
        runs = runs if runs[-1] else runs[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def centre_of_mass(masks: Tensor) -> Tensor:
    """Mean pixel index (x, y) of masks [N, H, W] bool: [N, 2] float64; NaN for an empty mask."""
    # Counts per column and row first: only they are turned into numbers wider than a bool
    columns, rows = masks.sum(dim=1).double(), masks.sum(dim=2).double()
    x = columns @ torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    y = rows @ torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    return torch.stack((x, y), dim=1) / rows.sum(dim=1, keepdim=True)


def mask_centers(bitmaps: Tensor, boxes: Tensor) -> Tensor:
    """Centres of mass of bitmaps, the mean (x, y) index of their pixels.

    Args:
        bitmaps: [N, H, W] bool.
        boxes: [N, 4] in pixels; an empty bitmap gets the centre of its box.

    Returns:
        [N, 2] float32.
    """
    mass = centre_of_mass(bitmaps).float()
    return torch.where(mass.isnan(), (boxes[:, :2] + boxes[:, 2:]).float() / 2, mass)


def _checked_rle(rle: dict, height: int, width: int) -> dict:
    size = list(rle.get("size", ()))
    if size != [height, width]:
        raise ValueError(f"the mask is {size}, the image is {[height, width]} (height, width)")
    counts = rle.get("counts")
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"RLE counts cover {sum(counts)} pixels of {height * width}")
        return coco_mask.frPyObjects(rle, height, width)
    if not isinstance(counts, (str, bytes)):
        raise ValueError(f"RLE counts must be a string or a list, got {type(counts).__name__}")
    covered = _compressed_total(counts)
    if covered != height * width:  # pycocotools would leave the rest uninitialised
        raise ValueError(f"RLE counts cover {covered} pixels of {height * width}")
    return {"size": size, "counts": counts}


def _compressed_total(counts: str | bytes) -> int:
    """Sum of the runs of a compressed RLE, -1 for a string that is none.

    Each run is a signed little-endian number of 5-bit digits (character - 48, bit 5 = "more
    follows", bit 4 of the last digit = sign); from the fourth on it is the difference to the run
    two before (COCO's format).
    """
    raw = counts.encode("utf-8") if isinstance(counts, str) else counts
    digits = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 0x3F or digits[-1] & 0x20:
        return -1
    last = np.flatnonzero((digits & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    if place.max() > 8:  # no run of an image needs more than 45 bits
        return -1
    values = np.add.reduceat((digits & 0x1F) << (5 * place), first)
    values -= np.where(digits[last] & 0x10, np.int64(1) << (5 * (last - first + 1)), 0)
    odd, even = values[1::2].cumsum(), values[2::2].cumsum()
    runs = np.concatenate((values[:1], odd, even))
    return int(runs.sum()) if runs.min() >= 0 else -1

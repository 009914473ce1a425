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
    """[H, W] bool bitmap to a compressed RLE whose counts are a str, ready for JSON."""
    array = np.asfortranarray(bitmap.detach().cpu().numpy().astype(np.uint8))
    rle = coco_mask.encode(array)
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


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
    return {"size": size, "counts": counts}

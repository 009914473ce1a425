"""Masks of annotations and results, as compressed RLEs that pycocotools may safely be given.

pycocotools trusts the counts of an RLE: too short ones read past the end, and ones of another
image give a number all the same. So they are checked here, without decoding a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_BLOCK = 2**21  # characters of RLE checked at a time
_MAX_DIGITS = 12  # 5 bits each: more do not fit 64 bits


def to_rle(segmentation: Any, height: int, width: int) -> dict:
    """A COCO segmentation (polygons, compressed or uncompressed RLE) as a compressed RLE.

    Raises:
        ValueError: for a mask of another size than (height, width), a polygon with fewer than
            three points, or anything else that is no segmentation.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise ValueError(f"the mask is {size}, the image {[height, width]} (height, width)")
        if isinstance(counts, (str, bytes)):
            text = counts if isinstance(counts, bytes) else counts.encode("ascii")
            return {"size": size, "counts": text}
        if not isinstance(counts, list) or sum(counts) != height * width or min(counts) < 0:
            raise ValueError(f"RLE counts do not cover the image's {height * width} pixels")
        return coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("neither an RLE nor a list of polygons")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError("a polygon needs three or more finite (x, y) points")
    parts = [[float(number) for number in polygon] for polygon in segmentation]
    return coco_mask.merge(coco_mask.frPyObjects(parts, height, width))


def rle_column(
    values: Sequence,
    sizes: np.ndarray,
    where: str,
    positions: Sequence[int] | np.ndarray | None = None,
) -> list[dict]:
    """Compressed RLEs of ``values``, for images of ``sizes`` [n, 2] (height, width).

    An image size of -1 is unknown; only an RLE, which states its own, is possible there.
    ``positions`` are the entries' numbers for messages (default: 0, 1, ...).

    Raises:
        ValueError: naming the first entry whose mask is malformed or of the wrong size.
    """
    rles = []
    for position, (value, (height, width)) in enumerate(zip(values, sizes.tolist(), strict=True)):
        try:
            if height < 0:
                height, width = _stated_size(value)
            rles.append(to_rle(value, height, width))
        except (ValueError, TypeError) as error:
            number = position if positions is None else positions[position]
            raise ValueError(f"{where}: entry {number}: {error}") from error
    start, held = 0, 0
    for position, rle in enumerate(rles):
        held += len(rle["counts"])
        if held > _BLOCK or position == len(rles) - 1:
            bad = faulty_runs(rles[start : position + 1])
            if bad.any():
                number = start + int(np.argmax(bad))
                number = number if positions is None else positions[number]
                raise ValueError(f"{where}: entry {number}: RLE counts do not cover the image")
            start, held = position + 1, 0
    return rles


def faulty_runs(rles: Sequence[Mapping]) -> np.ndarray:
    """[n] bool: compressed RLEs whose runs do not add up to their size, or are no runs at all.

    COCO writes each run as the difference to the one two before it (but for the first three), in
    digits of 5 bits, low ones first, with a bit that says that more follow, offset by 48.
    """
    lengths = np.array([len(rle["counts"]) for rle in rles])
    pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    if not lengths.all():
        return lengths == 0
    codes = np.frombuffer(b"".join(rle["counts"] for rle in rles), dtype=np.uint8) - np.uint8(48)
    more = (codes & 32).astype(bool)
    start = np.cumsum(lengths) - lengths
    # (below 48 wraps round to more than 63)
    faulty = np.logical_or.reduceat(codes > 63, start) | more[start + lengths - 1]
    if faulty.any():
        return faulty
    opens = np.concatenate(([True], ~more[:-1]))
    number_start = np.flatnonzero(opens)
    digits = np.diff(number_start, append=len(codes))
    place = np.arange(len(codes), dtype=np.int32) - np.repeat(number_start.astype(np.int32), digits)
    faulty = np.logical_or.reduceat(place >= _MAX_DIGITS, start)
    if faulty.any():
        return faulty
    value = np.add.reduceat((codes & 31).astype(np.int64) << (5 * place), number_start)
    negative = (codes[number_start + digits - 1] & 16).astype(bool)
    value -= negative.astype(np.int64) << (5 * digits)
    runs = np.add.reduceat(opens, start, dtype=np.int64)
    first = np.cumsum(runs) - runs
    index = np.arange(len(value)) - np.repeat(first, runs)
    # a difference enters its own run and every second one after it
    weight = (np.repeat(runs, runs) - 1 - index) // 2 + 1
    weight[first] = 1
    return np.add.reduceat(value * weight, first) != pixels


def _stated_size(segmentation: Any) -> list[int]:
    if not isinstance(segmentation, dict) or len(segmentation.get("size") or ()) != 2:
        raise ValueError("polygons need the image's width and height, which the file lacks")
    return list(segmentation["size"])

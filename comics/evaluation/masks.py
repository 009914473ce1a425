"""Masks of annotations and results, as compressed RLEs that pycocotools may safely be given.

pycocotools trusts the counts of an RLE: too short ones read past the end, and ones of another
image give a number all the same. So they are checked here, without decoding a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_BLOCK = 2**17  # characters of RLE checked at a time: what is made of them stays in the cache
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
) -> tuple[list[dict], np.ndarray]:
    """Compressed RLEs of ``values``, for images of ``sizes`` [n, 2] (height, width), and their
    areas [n] float64, the pixels that are set.

    An image size of -1 is unknown; only an RLE, which states its own, is possible there.
    ``positions`` are the entries' numbers for messages (default: 0, 1, ...).

    Raises:
        ValueError: naming the first entry whose mask is malformed or of the wrong size.
    """
    rles = []
    for position, (value, size) in enumerate(zip(values, sizes.tolist(), strict=True)):
        # What a file holds is what pycocotools takes: no second copy of it
        if isinstance(value, dict) and _is_compressed(value, size):
            rles.append(value)
            continue
        try:
            height, width = size if size[0] >= 0 else _stated_size(value)
            rles.append(to_rle(value, height, width))
        except (ValueError, TypeError) as error:
            number = position if positions is None else positions[position]
            raise ValueError(f"{where}: entry {number}: {error}") from error
    areas = np.zeros(len(rles))
    for start, end in _blocks([len(rle["counts"]) for rle in rles]):
        bad, areas[start:end] = _checked_runs(rles[start:end])
        if bad.any():
            number = start + int(np.argmax(bad))
            number = number if positions is None else positions[number]
            raise ValueError(f"{where}: entry {number}: RLE counts do not cover the image")
    return rles, areas


def _is_compressed(segmentation: dict, size: list[int]) -> bool:
    counts = segmentation.get("counts")
    return type(counts) is str and counts.isascii() and segmentation.get("size") == size


def _blocks(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of runs of RLEs that have some ``_BLOCK`` characters together."""
    start = held = 0
    for position, length in enumerate(lengths):
        held += length
        if held >= _BLOCK:
            yield start, position + 1
            start, held = position + 1, 0
    if start < len(lengths):
        yield start, len(lengths)


def faulty_runs(rles: Sequence[Mapping]) -> np.ndarray:
    """[n] bool: compressed RLEs whose runs do not add up to their size, or are no runs at all."""
    return _checked_runs(rles)[0]


def _checked_runs(rles: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
    """``faulty_runs`` and, of those without a fault, the pixels that are set, [n] float64.

    COCO writes each run as the difference to the one two before it (but for the first three), in
    digits of 5 bits, low ones first, with a bit that says that more follow, offset by 48. Runs of
    pixels that are not set and that are set follow each other, and a difference enters its own run
    and every second one after it: so both sums are sums of the differences times how often.
    """
    counts = [rle["counts"] for rle in rles]
    joined = b"".join(one.encode("ascii") if isinstance(one, str) else one for one in counts)
    lengths = np.array([len(one) for one in counts])
    pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    areas = np.zeros(len(rles))
    if not lengths.all():
        return lengths == 0, areas
    codes = np.frombuffer(joined, dtype=np.uint8) - np.uint8(48)
    start = np.cumsum(lengths) - lengths
    closes = codes < 32
    # (below 48 wraps round to more than 63)
    faulty = np.logical_or.reduceat(codes > 63, start) | ~closes[start + lengths - 1]
    if faulty.any():
        return faulty, areas
    last = np.flatnonzero(closes)  # digit of each number
    begin = np.empty_like(last)
    begin[0], begin[1:] = 0, last[:-1] + 1
    place = last - begin
    first = np.searchsorted(begin, start)
    if place.max() >= _MAX_DIGITS:
        return np.logical_or.reduceat(place >= _MAX_DIGITS, first), areas
    value = _numbers(codes, begin, last, place)
    runs = np.diff(first, append=len(value))
    left = np.repeat(first + runs, runs) - np.arange(len(value))  # this run and those after it
    times = (left + 1) >> 1
    times[first] = 1
    value *= times
    total = np.add.reduceat(value, first)
    value *= (np.repeat(runs, runs) - left) & 1  # every second run is of pixels that are set
    areas[:] = np.add.reduceat(value, first)
    return total != pixels, areas


def _numbers(
    codes: np.ndarray, begin: np.ndarray, last: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """[N] int64 from digits of 5 bits: those of number n are ``codes[begin[n] : last[n] + 1]``.

    ``place`` is last - begin; bit 4 of the last digit is the sign.
    """
    value = (codes[begin] & 31).astype(np.int64)
    rows, digit = np.flatnonzero(place), 1
    while len(rows):
        value[rows] += (codes[begin[rows] + digit] & 31).astype(np.int64) << (5 * digit)
        digit += 1
        rows = rows[place[rows] >= digit]
    negative = np.flatnonzero(codes[last] & 16)
    value[negative] -= np.int64(1) << (5 * (place[negative] + 1))
    return value


def _stated_size(segmentation: Any) -> list[int]:
    if not isinstance(segmentation, dict) or len(segmentation.get("size") or ()) != 2:
        raise ValueError("polygons need the image's width and height, which the file lacks")
    return list(segmentation["size"])

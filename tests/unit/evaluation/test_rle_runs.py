"""RLEs are checked without decoding: every true one passes, every spoilt one does not crash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from comics.evaluation.masks import faulty_runs, rle_column, to_rle

BITMAP = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)
)


def encode(bitmap):
    return coco_mask.encode(np.asfortranarray(bitmap))


def test_long_runs():
    """Runs of many digits, and differences of both signs."""
    bitmap = np.zeros((3000, 4000), dtype=np.uint8)
    bitmap[10:2990, 5:3990] = 1
    bitmap[100:110, 300:2000] = 0
    assert not faulty_runs([encode(bitmap), encode(1 - bitmap)]).any()


@settings(max_examples=200, deadline=None)
@given(st.lists(BITMAP, min_size=1, max_size=5))
def test_true_ones_pass(bitmaps):
    assert not faulty_runs([encode(bitmap) for bitmap in bitmaps]).any()


@settings(max_examples=200, deadline=None)
@given(st.lists(BITMAP, min_size=2, max_size=5), st.data())
def test_one_of_another_size_is_found(bitmaps, data):
    rles = [encode(bitmap) for bitmap in bitmaps]
    number = data.draw(st.integers(0, len(rles) - 1))
    height, width = rles[number]["size"]
    rles[number] = {"size": [height, width + 1], "counts": rles[number]["counts"]}
    assert np.flatnonzero(faulty_runs(rles)).tolist() == [number]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_judged_as_a_slow_reading_judges_them(counts):
    def total(counts):
        runs, position = [], 0
        while position < len(counts):
            value, shift, more = 0, 0, True
            while more:
                if position == len(counts):
                    return None  # cut off within a number
                code = counts[position] - 48
                if not 0 <= code < 64 or shift >= 60:
                    return None
                value |= (code & 31) << shift
                shift, more, position = shift + 5, bool(code & 32), position + 1
                if not more and code & 16:
                    value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        return sum(runs) if runs else None

    slow = total(counts)
    for width in {7, abs(slow or 7)}:
        if width >= 2**31:
            continue
        rle = {"size": [1, width], "counts": counts}
        assert bool(faulty_runs([rle])[0]) == (slow != width)


@pytest.mark.parametrize("segmentation", [[], "text", 5, {"counts": "1"}, [[1, 2, 3, 4]], [3]])
def test_what_is_no_mask(segmentation):
    with pytest.raises((ValueError, TypeError)):
        to_rle(segmentation, 4, 4)
    with pytest.raises(ValueError, match="file: entry 0"):
        rle_column([segmentation], np.array([[4, 4]]), "file")


@settings(max_examples=50, deadline=None)
@given(BITMAP)
def test_compressed_and_uncompressed_are_the_same_mask(bitmap):
    height, width = bitmap.shape
    flat = np.concatenate(([0], bitmap.T.ravel(), [2]))
    changes = np.flatnonzero(np.diff(flat))
    edges = np.concatenate(([0], changes, [height * width])) if len(changes) else [0]
    counts = [int(n) for n in np.diff(np.unique(edges))]
    if bitmap.T.ravel()[0]:
        counts = [0, *counts]
    rle = to_rle({"size": [height, width], "counts": counts}, height, width)
    assert (coco_mask.decode(rle) == bitmap).all()

"""COCO's matching of detections to annotated faces, for all images, thresholds and sizes at once.

One matching feeds AP, AR and LRP. Instead of looping over images, categories, areas and
thresholds, the detections that come first in their image take their faces everywhere at once,
then those that come second, and so on: within an image the order is COCO's, and images do not
influence each other.

Shape letters: A area ranges; T IoU thresholds; K categories; D detections, sorted; G annotated
faces; P pairs of a detection and a face of one image that overlap enough; C candidates of one
detection. The rules are those of pycocotools' ``COCOeval.evaluateImg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask

from comics.evaluation.ground_truth import GroundTruth
from comics.evaluation.results import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO
MAX_DETECTIONS = 100  # per image and category (COCO)
# Both ends belong to the range: an area of exactly 32^2 is small and medium (COCO)
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
_EXACT = 1 - 1e-10  # COCO's bound, so that a threshold of 1 can be met after rounding
_BLOCK = 2**22  # elements of the largest temporary array of the matching


@dataclass(frozen=True)
class Ranked:
    """Detections in the order of matching: by category, image, descending score, file order.

    Attributes:
        entry: [D] position in the results; those past ``MAX_DETECTIONS`` are gone.
        rank: [D] place within image and category, from 0.
        image, category, scores: [D] as in ``Detections``.
        areas: [D] float64, what the size classes go by.
    """

    entry: np.ndarray
    rank: np.ndarray
    image: np.ndarray
    category: np.ndarray
    scores: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.entry)


@dataclass(frozen=True)
class Pairs:
    """Detections and faces of the same image whose IoU reaches the lowest threshold.

    Attributes:
        detection: [P] position in ``Ranked``.
        face: [P] position in ``GroundTruth``.
        iou: [P] float64; with a crowd, intersection over the detection's area.
    """

    detection: np.ndarray
    face: np.ndarray
    iou: np.ndarray

    def select(self, chosen: np.ndarray) -> Pairs:
        """The pairs where ``chosen`` [P] holds."""
        return Pairs(self.detection[chosen], self.face[chosen], self.iou[chosen])


@dataclass(frozen=True)
class Matches:
    """The outcome of one matching.

    Attributes:
        ranked: the detections it is about.
        face: [A, D] int32, position in ``GroundTruth`` of the face matched at the lowest threshold,
            -1 for none.
        true_positive: [A, T, D] bool, matched to a face that counts.
        ignored: [A, T, D] bool, neither right nor wrong; all others are false positives.
        iou: [A, D] float64, IoU with the face matched at the lowest threshold, else 0.
        counted: [A, K] int64, faces that count.
    """

    ranked: Ranked
    face: np.ndarray
    true_positive: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray
    counted: np.ndarray


def rank_detections(
    detections: Detections, areas: np.ndarray, max_detections: int = MAX_DETECTIONS
) -> Ranked:
    """Sort for matching and keep the best ``max_detections`` of each image and category."""
    keys = (-detections.scores, detections.image, detections.category)
    order = np.lexsort(keys)  # stable: equal scores stay in the order of the file
    image, category = detections.image[order], detections.category[order]
    rank = _place_in_run(image, category)
    kept = rank < max_detections
    order = order[kept]
    return Ranked(
        entry=order,
        rank=rank[kept],
        image=image[kept],
        category=category[kept],
        scores=detections.scores[order],
        areas=areas[order],
    )


def overlapping_pairs(
    ground_truth: GroundTruth,
    detections: Detections,
    ranked: Ranked,
    masks: bool,
    lowest: float = IOU_THRESHOLDS[0],
) -> Pairs:
    """All pairs within an image, of any two categories, with an IoU of at least ``lowest``.

    Args:
        ground_truth, detections: what is compared; pycocotools computes the IoU of masks.
        ranked: of ``detections``.
        masks: mask IoU instead of box IoU.
        lowest: no matching below this threshold is possible with the pairs that come out.
    """
    by_image = np.argsort(ground_truth.image, kind="stable")
    first = np.searchsorted(ground_truth.image[by_image], np.arange(len(ground_truth.image_ids)))
    per_image = np.bincount(ground_truth.image, minlength=len(ground_truth.image_ids))
    lengths = per_image[ranked.image]
    detection = np.repeat(np.arange(len(ranked)), lengths)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    face = by_image[np.repeat(first[ranked.image], lengths) + within]
    pairs = Pairs(detection, face, np.zeros(len(detection)))
    overlap = _box_iou if not masks else _mask_iou
    pairs = replace(pairs, iou=overlap(ground_truth, detections, ranked, pairs))
    return pairs.select(pairs.iou >= min(lowest, _EXACT))


def match(
    ground_truth: GroundTruth,
    ranked: Ranked,
    pairs: Pairs,
    thresholds: np.ndarray = IOU_THRESHOLDS,
    areas: dict[str, tuple[float, float]] = AREA_RANGES,
    id_zero_unmatched: bool = False,
) -> Matches:
    """Greedy matching at every area range and threshold.

    A detection, best score first, takes the free face with the largest IoU that reaches the
    threshold; of equal ones the later in the file. An ignored face (crowd, or of another size)
    is taken only if no other qualifies; a crowd stays free. A detection without a face that is
    itself of another size is ignored.

    Args:
        ground_truth, ranked: what is matched.
        pairs: of one category each; the categories are those in ``ranked``.
        thresholds: [T], ascending.
        areas: name -> (lowest, highest) area, both inclusive.
        id_zero_unmatched: repeat pycocotools' fault: a face with annotation id 0 is taken, but
            its detection counts as unmatched. To compare with figures that have the fault.
    """
    bounds = np.array(list(areas.values()))[:, :, None]  # [A, 2, 1]
    low, high = bounds[:, 0], bounds[:, 1]
    face_outside = (ground_truth.areas < low) | (ground_truth.areas > high)
    face_ignored = face_outside | ground_truth.crowd  # [A, G]
    face = np.full((len(areas), len(thresholds), len(ranked)), -1, dtype=np.int32)
    iou = np.zeros((len(areas), len(ranked)))
    taken = np.zeros((len(areas), len(thresholds), len(ground_truth)), dtype=bool)
    for detection, candidates, overlap in _rounds(ranked, pairs, len(areas) * len(thresholds)):
        chosen = _choose(candidates, overlap, thresholds, taken, face_ignored)  # [A, T, n]
        # detections of one round are of different images (or categories): no face twice
        area, level, row = np.nonzero(chosen >= 0)
        column = chosen[area, level, row]
        matched = candidates[row, column]
        face[area, level, detection[row]] = matched
        taken[area, level, matched] = ~ground_truth.crowd[matched]
        lowest = level == 0
        iou[area[lowest], detection[row[lowest]]] = overlap[row[lowest], column[lowest]]
    return _outcome(ground_truth, ranked, face, iou, face_ignored, (low, high), id_zero_unmatched)


def _outcome(
    ground_truth: GroundTruth,
    ranked: Ranked,
    face: np.ndarray,
    iou: np.ndarray,
    face_ignored: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    id_zero_unmatched: bool,
) -> Matches:
    found = face >= 0
    ignored = np.zeros_like(found)
    for area in range(len(face)):
        if len(ground_truth):
            ignored[area] = found[area] & face_ignored[area][face[area]]
    if id_zero_unmatched and len(ground_truth):
        found &= ground_truth.ids[face] != 0
    outside = (ranked.areas < bounds[0]) | (ranked.areas > bounds[1])  # [A, D]
    ignored |= ~found & outside[:, None]
    categories = len(ground_truth.category_ids)
    counted = [
        np.bincount(ground_truth.category[~ignore], minlength=categories) for ignore in face_ignored
    ]
    lowest = face[:, 0].copy()  # the other thresholds' are not asked for again
    return Matches(ranked, lowest, found & ~ignored, ignored, iou, np.stack(counted))


def _choose(
    candidates: np.ndarray,
    overlap: np.ndarray,
    thresholds: np.ndarray,
    taken: np.ndarray,
    face_ignored: np.ndarray,
) -> np.ndarray:
    """Column of the face that each detection takes, -1 for none: [A, T, n].

    Args:
        candidates: [n, C] faces, in the order of preference; padding has an IoU of -1.
        overlap: [n, C] their IoU.
        thresholds: [T].
        taken: [A, T, G] faces that are no longer free.
        face_ignored: [A, G].
    """
    reached = overlap >= np.minimum(thresholds, _EXACT)[:, None, None]  # [T, n, C]
    free = reached & ~taken[:, :, candidates]  # [A, T, n, C]
    counted = free & ~face_ignored[:, None, candidates]
    has_counted = counted.any(axis=-1)
    choice = np.where(has_counted, counted.argmax(axis=-1), free.argmax(axis=-1))
    return np.where(has_counted | free.any(axis=-1), choice, -1)


def _rounds(
    ranked: Ranked, pairs: Pairs, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Detections [n] that may choose together, their candidates [n, C] and IoUs [n, C].

    Candidates are in order of preference: descending IoU, of equal ones the later in the file.
    """
    order = np.lexsort((-pairs.face, -pairs.iou, pairs.detection))
    pairs = pairs.select(order)
    detection, start, count = np.unique(pairs.detection, return_index=True, return_counts=True)
    turn = _place_in_run(ranked.image[detection], ranked.category[detection])
    by_turn = np.lexsort((count, turn))
    edges = np.flatnonzero(np.diff(turn[by_turn], prepend=-1, append=-1))
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        while begin < end:
            # similar numbers of candidates stand together, so padding stays small
            most = count[by_turn[end - 1]]
            size = max(1, _BLOCK // (width * most))
            rows = by_turn[max(begin, end - size) : end]
            place = np.arange(most)
            valid = place < count[rows][:, None]
            index = np.where(valid, start[rows][:, None] + place, 0)
            overlap = np.where(valid, pairs.iou[index], -1.0)
            yield detection[rows], pairs.face[index], overlap
            end -= len(rows)


def _box_iou(
    ground_truth: GroundTruth, detections: Detections, ranked: Ranked, pairs: Pairs
) -> np.ndarray:
    """[P] float64; the arithmetic, in its order, of pycocotools' ``bbIou``."""
    boxes = detections.boxes[ranked.entry][pairs.detection].T
    faces = ground_truth.boxes[pairs.face].T
    width = np.minimum(boxes[2] + boxes[0], faces[2] + faces[0]) - np.maximum(boxes[0], faces[0])
    height = np.minimum(boxes[3] + boxes[1], faces[3] + faces[1]) - np.maximum(boxes[1], faces[1])
    overlap = (width > 0) & (height > 0)
    shared = np.where(overlap, width * height, 0.0)
    area = boxes[2] * boxes[3]
    union = area + faces[2] * faces[3] - shared
    union = np.where(ground_truth.crowd[pairs.face], area, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=overlap)


def _mask_iou(
    ground_truth: GroundTruth, detections: Detections, ranked: Ranked, pairs: Pairs
) -> np.ndarray:
    """[P] float64; pycocotools, one call per image (it skips masks whose boxes are apart)."""
    image = ranked.image[pairs.detection]
    order = np.lexsort((pairs.face, pairs.detection, image))
    edges = np.flatnonzero(np.diff(image[order], prepend=-1, append=-1))
    begins, ends = edges[:-1], edges[1:]
    # every detection of an image is paired with the same faces, in the same order
    columns = np.bincount(ground_truth.image, minlength=1)[image[order[begins]]]
    detection = ranked.entry[pairs.detection[order]].tolist()
    face = pairs.face[order]
    faces, crowd = face.tolist(), ground_truth.crowd[face].astype(np.uint8)
    own, other = detections.rles, ground_truth.rles
    found = [np.zeros(0)]
    for begin, end, count in zip(begins.tolist(), ends.tolist(), columns.tolist(), strict=True):
        table = coco_mask.iou(
            [own[i] for i in detection[begin:end:count]],
            [other[i] for i in faces[begin : begin + count]],
            crowd[begin : begin + count],
        )
        found.append(table.reshape(-1))
    iou = np.empty(len(order))
    iou[order] = np.concatenate(found)
    return iou


def _place_in_run(*keys: np.ndarray) -> np.ndarray:
    """[n] int64: place of each element within its run of equal keys, from 0."""
    length = len(keys[0])
    if not length:
        return np.zeros(0, dtype=np.int64)
    changes = np.zeros(length, dtype=bool)
    changes[0] = True
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    start = np.maximum.accumulate(np.where(changes, np.arange(length), 0))
    return np.arange(length) - start

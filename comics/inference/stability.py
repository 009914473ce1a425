"""How P(fake) of a face changes when its picture is treated as messengers and web pages treat it.

A verdict that turns under such a treatment rests on traces that hardly survived the picture's way
so far. It costs one more look at the whole picture for each treatment.

Shape letters: N faces; H, W height and width of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from comics.data.compression import jpeg
from comics.data.transforms import resize_image
from comics.ops.boxes import box_iou, scale_boxes
from comics.structures import Faces

SAME_FACE_IOU = 0.5  # a box that overlaps a face's by as much is of the same face
TREATMENTS = {  # name in the results -> for people
    "jpeg_75": "saved as JPEG of quality 75",
    "jpeg_50": "saved as JPEG of quality 50",
    "half_size": "shrunk to half its width and height",
}

Predict = Callable[[Sequence[np.ndarray]], list[Faces]]
Stability = dict[str, float | None]


def treat(image: np.ndarray, treatment: str) -> np.ndarray:
    """A picture [H, W, 3] uint8 RGB, treated.

    Raises:
        KeyError: if ``treatment`` is none of ``TREATMENTS``.
    """
    height, width = image.shape[:2]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "jpeg_75": lambda: jpeg(image, 75),
        "jpeg_50": lambda: jpeg(image, 50),
        "half_size": lambda: resize_image(image, (max(1, height // 2), max(1, width // 2))),
    }
    return ways[treatment]()


def measure_stability(predict: Predict, image: np.ndarray, faces: Faces) -> list[Stability]:
    """Of each of N faces, P(fake) after each of ``TREATMENTS``; None where it is not found again.

    Args:
        predict: of a predictor.
        image: [H, W, 3] uint8 RGB.
        faces: what it found in ``image``.
    """
    told: list[Stability] = [{} for _ in range(len(faces))]
    if not told:
        return told
    for name in TREATMENTS:
        treated = treat(image, name)
        (found,) = predict([treated])
        for one, probability in zip(told, _matched(faces, found), strict=True):
            one[name] = probability
    return told


def _matched(faces: Faces, found: Faces) -> list[float | None]:
    """P(fake) of each face in what was found in the treated picture; a box counts once."""
    matched: list[float | None] = [None] * len(faces)
    if not len(found) or found.fake_probability is None:
        return matched
    scale_x = faces.image_size[1] / found.image_size[1]
    scale_y = faces.image_size[0] / found.image_size[0]
    boxes = scale_boxes(found.boxes.double(), scale_x, scale_y)
    overlap = box_iou(faces.boxes.double(), boxes).numpy()
    probabilities = found.fake_probability.tolist()
    while (best := float(overlap.max())) >= SAME_FACE_IOU:
        face, other = (int(place[0]) for place in np.nonzero(overlap == best))
        matched[face] = probabilities[other]
        overlap[face], overlap[:, other] = 0, 0
    return matched

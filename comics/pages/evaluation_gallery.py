"""The best and the worst faces of an evaluation, cut out of their pictures, with masks.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from comics.data.coco_parser import is_safe_path
from comics.data.file_names import local_name
from comics.data.images import ImageError, read_image
from comics.data.transforms import resize_image
from comics.evaluation.faces import FAKE_THRESHOLD, FaceVerdicts
from comics.evaluation.ground_truth import GroundTruth
from comics.evaluation.metrics import Metrics
from comics.inference.draw import draw_faces
from comics.structures import CLASS_NAMES, Faces

PER_GALLERY = 8  # faces
SIDE = 400  # pixels of a cut-out's long side
MARGIN = 0.35  # around the face, in sides of its box
QUALITY = 80  # JPEG
TRUTH_COLOURS = ((0, 0, 0), (255, 230, 0))  # rim and line of the true outline
LABEL_SCALE = 2.0  # of lines and text in a cut-out


@dataclass(frozen=True)
class Example:
    """One face of a gallery.

    Attributes:
        picture: the cut-out as a data URI: the detection and, as a yellow line, what is true.
        file_name: of the image.
        truth: "Real" or "Fake".
        verdict: what the detector says, in words.
        alt: text in place of the picture.
    """

    picture: str
    file_name: str
    truth: str
    verdict: str
    alt: str


def select_faces(verdicts: FaceVerdicts, areas: np.ndarray) -> dict[str, np.ndarray]:
    """Heading -> positions in ``verdicts`` of the faces to show, worst (or best) first.

    Args:
        verdicts: of every annotated face.
        areas: [G] of those faces; missed ones are shown by size.
    """
    found = ~np.isnan(verdicts.fake_probability)
    probability = np.where(found, verdicts.fake_probability, 0.0)
    called = probability >= FAKE_THRESHOLD
    of_truth = np.where(verdicts.labels == 1, probability, 1 - probability)
    right = found & (called == (verdicts.labels == 1))
    kinds = {
        "Wrong class, the surest first": (found & ~right, of_truth),
        "Missed, the largest first": (~found, -areas),
        "Right class, the worst outline first": (right, verdicts.iou),
        "Best": (right, -of_truth * verdicts.iou),
    }
    galleries = {}
    for heading, (chosen, order) in kinds.items():
        places = np.flatnonzero(chosen)
        ranked = places[np.argsort(order[places], kind="stable")]
        galleries[heading] = ranked[:PER_GALLERY]
    return galleries


def draw_galleries(
    metrics: Metrics, mode: str, verdicts: FaceVerdicts, image_root: Path
) -> tuple[dict[str, list[Example]], list[str]]:
    """The galleries, and a line for each picture that could not be read.

    Args:
        metrics: what was evaluated.
        mode: "bbox" (boxes only are drawn) or one of masks.
        verdicts: of the same mode.
        image_root: folder that the ground truth's file names start from.
    """
    areas = metrics.ground_truth.areas[verdicts.face]
    galleries, faults = {}, {}
    for heading, places in select_faces(verdicts, areas).items():
        examples = []
        for place in places.tolist():
            try:
                examples.append(_example(metrics, mode, verdicts, place, image_root))
            except (ImageError, OSError, ValueError) as error:
                faults[str(error)] = f"gallery: {error}"
        galleries[heading] = examples
    return galleries, list(faults.values())


def _example(
    metrics: Metrics, mode: str, verdicts: FaceVerdicts, place: int, image_root: Path
) -> Example:
    truth, face = metrics.ground_truth, int(verdicts.face[place])
    name = truth.file_names[truth.image[face]]
    if not name or not is_safe_path(name):
        raise ValueError(f"file name {name!r} leads out of the image folder, or is empty")
    image = read_image(image_root / local_name(name, image_root))
    detection, probability = int(verdicts.detection[place]), verdicts.fake_probability[place]
    label = CLASS_NAMES[verdicts.labels[place]]
    if detection < 0:
        verdict = "missed"
    else:
        verdict = f"P(fake) {probability:.2f}, IoU {verdicts.iou[place]:.2f}"
    picture = _cut_out(image, metrics, mode, face, detection, float(probability))
    return Example(_data_uri(picture), name, label, verdict, f"{label} face of {name}: {verdict}")


def _cut_out(
    image: np.ndarray, metrics: Metrics, mode: str, face: int, detection: int, probability: float
) -> np.ndarray:
    truth, detections = metrics.ground_truth, metrics.detections
    boxes = [truth.boxes[face]]
    if detection >= 0:
        boxes.append(detections.boxes[detection])
    x0, y0, x1, y1 = _window(np.array(boxes), image.shape[:2])
    part = image[y0:y1, x0:x1]
    scale = SIDE / max(part.shape[:2])
    size = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    part = resize_image(part, size)

    def shrink(rle: dict) -> np.ndarray:
        bitmap = coco_mask.decode(rle)[y0:y1, x0:x1]
        return cv2.resize(bitmap, size[::-1], interpolation=cv2.INTER_AREA).astype(bool)

    if detection >= 0:
        x, y, width, height = (detections.boxes[detection] - (x0, y0, 0, 0)) * scale
        masks = None
        if mode != "bbox":
            masks = torch.from_numpy(shrink(detections.rles[detection]))[None]
        drawn = Faces(
            boxes=torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32),
            image_size=size,
            labels=torch.tensor([int(probability >= FAKE_THRESHOLD)]),
            masks=masks,
            fake_probability=torch.tensor([probability]),
        )
        part = draw_faces(part, drawn, LABEL_SCALE)
    return _draw_truth(part, truth, face, mode, shrink, (x0, y0, scale))


def _draw_truth(
    part: np.ndarray,
    truth: GroundTruth,
    face: int,
    mode: str,
    shrink: Callable[[dict], np.ndarray],
    place: tuple[int, int, float],
) -> np.ndarray:
    """The true outline (box or mask) as a thin yellow line with a black rim."""
    x0, y0, scale = place
    canvas = np.ascontiguousarray(part)
    contours: Sequence[np.ndarray]
    if mode == "bbox":
        x, y, width, height = (truth.boxes[face] - (x0, y0, 0, 0)) * scale
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        contours = [np.rint(corners).astype(np.int32)]
    else:
        mask = shrink(truth.rles[face]).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for colour, thickness in zip(TRUTH_COLOURS, (4, 2), strict=True):
        cv2.polylines(canvas, list(contours), True, colour, thickness, cv2.LINE_AA)
    return canvas


def _window(boxes: np.ndarray, size: Sequence[int]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of boxes [n, 4] (x, y, width, height) with a margin, inside the picture."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * max(*(high - low), 8.0)
    x0, y0 = np.floor(np.maximum(low - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(high + margin, size[::-1])).astype(int)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise ValueError(f"a box lies outside its picture of {list(size)} (height, width)")
    return int(x0), int(y0), int(x1), int(y1)


def _data_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

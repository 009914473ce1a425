"""Where a face is, and which of its pixels a forgery touches.

The region of a face is defined once, for real and forged faces alike, so that their masks can be
compared: the mask that came with the face, else the hull of 68 landmarks, else the ellipse that
is turned with the eyes and fits the box. A forgery's soft mask always lies inside that region;
pixels where it is 0 stay as they were, bit by bit.

Shape letters: H, W image; h, w window of it around one face. Boxes are (x0, y0, x1, y1) pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Keypoints in shares of the box: medians of 9,013 photographed faces in MTCNN framing, made
# symmetric (left eye, right eye, nose, left and right mouth corner as seen in the picture)
KEYPOINT_TEMPLATE = np.array(
    [[0.27, 0.385], [0.73, 0.385], [0.5, 0.588], [0.305, 0.766], [0.695, 0.766]]
)
FACE_ASPECT = 1.3  # height over width, for an ellipse that the box does not determine
# The box determines the turned ellipse's axes only away from 45 degrees
MIN_COS_DOUBLE_ROLL = 0.5
# Ranges of the 68 landmarks (iBUG) that give the five keypoints: (first, after last)
LANDMARK_EYES, LANDMARK_NOSE, LANDMARK_CORNERS = ((36, 42), (42, 48)), 30, (48, 54)
# Extents of the inner face: above the eyes and below the mouth in eyes-to-mouth lengths, to either
# side in eye distances; the superellipse's exponent
INNER_TOP, INNER_BOTTOM, INNER_HALF_WIDTH = (0.55, 0.75), (0.52, 0.68), (0.88, 1.02)
INNER_POWER = 2.4
FOREHEAD = 0.5  # brows are lifted by this share of the brow-to-nose distance to cover it


@dataclass(frozen=True)
class SourceFace:
    """A real face in its photo.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        box: [4] float64 (x0, y0, x1, y1).
        keypoints: [5, 2] float64; a template placed in the box where they are unknown.
        mask: [H, W] bool, the region of the face; at least one pixel.
        covered: whether something is worn over nose and mouth.
        landmarks: [68, 2] float64 in the iBUG order, where they are known.
        guessed: whether ``keypoints`` are the template's.
    """

    image: np.ndarray
    box: np.ndarray
    keypoints: np.ndarray
    mask: np.ndarray
    covered: bool = False
    landmarks: np.ndarray | None = None
    guessed: bool = False


def describe_face(
    image: np.ndarray,
    box: np.ndarray,
    *,
    keypoints: np.ndarray | None = None,
    landmarks: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    covered: bool = False,
) -> SourceFace:
    """Check a face's annotation and fill in what is unknown.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: [4] numbers (x0, y0, x1, y1) in pixels; may reach outside the image.
        keypoints: [5, 2] left eye, right eye, nose, left and right mouth corner.
        landmarks: [68, 2] in the iBUG order; they give the keypoints and the hull.
        mask: [H, W] bool region of the face; overrides hull and ellipse.
        covered: whether something is worn over nose and mouth.

    Raises:
        ValueError: for a wrong shape or type, an empty or infinite box, or a face of which no
            pixel is inside the image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
    box = _checked(box, (4,), "box")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box (x0, y0, x1, y1) is empty: {box.tolist()}")
    shape = image.shape[:2]
    if landmarks is not None:
        landmarks = _checked(landmarks, (68, 2), "landmarks")
        keypoints = landmarks_to_keypoints(landmarks) if keypoints is None else keypoints
    if keypoints is not None:
        keypoints = _checked(keypoints, (5, 2), "keypoints")
    if mask is not None:
        if mask.shape != shape or mask.dtype != bool:
            raise ValueError(f"mask must be bool {shape}, got {mask.dtype} {mask.shape}")
    elif landmarks is not None:
        mask = hull_region(shape, landmarks)
    else:
        mask = ellipse_region(shape, box, 0.0 if keypoints is None else face_roll(keypoints))
    if not mask.any():
        raise ValueError(f"no pixel of the face with box {box.tolist()} is in the image {shape}")
    guessed = keypoints is None
    if keypoints is None:
        keypoints = box[:2] + KEYPOINT_TEMPLATE * (box[2:] - box[:2])
    return SourceFace(image, box, keypoints, mask, covered, landmarks, guessed)


def ellipse_region(shape: tuple[int, int], box: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """[H, W] bool: ellipse turned by ``roll`` (radians, clockwise on screen) that fits ``box``.

    Half extents of an ellipse with half axes a (across) and b (along the face) are
    hw^2 = a^2 cos^2 + b^2 sin^2 and hh^2 = a^2 sin^2 + b^2 cos^2; solved for a and b. Near 45
    degrees, or for a box that no such ellipse fits, b = 1.3 a and the ellipse touches two sides.
    """
    centre = (box[:2] + box[2:]) / 2
    half_w, half_h = (box[2:] - box[:2]) / 2
    sin2, cos2 = np.sin(roll) ** 2, np.cos(roll) ** 2
    across = along = -1.0
    if cos2 - sin2 >= MIN_COS_DOUBLE_ROLL:
        across = (half_w**2 * cos2 - half_h**2 * sin2) / (cos2 - sin2)
        along = (half_h**2 * cos2 - half_w**2 * sin2) / (cos2 - sin2)
    if min(across, along) <= 0.2 * min(half_w, half_h) ** 2:
        fit_w = half_w**2 / (cos2 + FACE_ASPECT**2 * sin2)
        fit_h = half_h**2 / (sin2 + FACE_ASPECT**2 * cos2)
        across = min(fit_w, fit_h)
        along = across * FACE_ASPECT**2
    x = np.arange(shape[1]) + 0.5 - centre[0]
    y = np.arange(shape[0])[:, None] + 0.5 - centre[1]
    p = x * np.cos(roll) + y * np.sin(roll)
    q = y * np.cos(roll) - x * np.sin(roll)
    return p**2 / across + q**2 / along <= 1


def hull_region(shape: tuple[int, int], landmarks: np.ndarray) -> np.ndarray:
    """[H, W] bool: convex hull of 68 landmarks, brows lifted over part of the forehead."""
    brows = landmarks[17:27]
    lift = (brows.mean(0) - landmarks[LANDMARK_NOSE]) * FOREHEAD
    points = np.vstack([landmarks, brows + lift]).astype(np.float32)
    hull = cv2.convexHull(points)[:, 0]
    canvas = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(canvas, np.rint(hull - 0.5).astype(np.int32), 1)
    return canvas.astype(bool)


def inner_region(region: np.ndarray, keypoints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[h, w] bool: from above the brows to the chin, cheek to cheek, without hair; in ``region``.

    A superellipse turned with the face, its extents drawn; what face swaps replace.
    """
    eyes, mouth = keypoints[:2].mean(0), keypoints[3:].mean(0)
    down = mouth - eyes
    length = max(float(np.linalg.norm(down)), 1.0)
    # A head that turns sideways brings the eyes nearer to each other, not to the mouth
    apart = max(float(np.linalg.norm(keypoints[1] - keypoints[0])), 0.8 * length)
    top, bottom = rng.uniform(*INNER_TOP) * length, rng.uniform(*INNER_BOTTOM) * length
    across, along = rng.uniform(*INNER_HALF_WIDTH) * apart, (top + length + bottom) / 2
    roll = face_roll(keypoints)
    axis = np.array([-np.sin(roll), np.cos(roll)])
    centre = (eyes + mouth) / 2 + axis * (bottom - top) / 2
    x = np.arange(region.shape[1]) + 0.5 - centre[0]
    y = np.arange(region.shape[0])[:, None] + 0.5 - centre[1]
    p = np.abs(x * np.cos(roll) + y * np.sin(roll)) / across
    q = np.abs(y * np.cos(roll) - x * np.sin(roll)) / along
    return (p**INNER_POWER + q**INNER_POWER <= 1) & region


def landmarks_to_keypoints(landmarks: np.ndarray) -> np.ndarray:
    """[68, 2] iBUG landmarks to the [5, 2] keypoints."""
    eyes = [landmarks[first:last].mean(0) for first, last in LANDMARK_EYES]
    return np.stack([*eyes, landmarks[LANDMARK_NOSE], *landmarks[list(LANDMARK_CORNERS)]])


def face_roll(keypoints: np.ndarray) -> float:
    """In-plane rotation in radians: 0 upright, positive clockwise on screen.

    From the line eyes-to-mouth, which keeps its direction when the head turns sideways.
    """
    down = keypoints[3:].mean(0) - keypoints[:2].mean(0)
    return float(np.arctan2(-down[0], down[1]))


def soft_face_mask(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A soft, deformed version of a face's region, inside it.

    The distance to the region's edge, disturbed by smooth noise, is cut at a drawn inset and
    rises from 0 to 1 over a drawn feather.

    Args:
        region: [h, w] bool, with a margin where the face ends inside the photo.
        rng: random source.

    Returns:
        [h, w] float32 in [0, 1], 0 outside ``region``, above 0.5 somewhere.
    """
    size = float(np.sqrt(region.sum()))
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5)
    cells = rng.standard_normal(rng.integers(3, 7, 2), dtype=np.float32)
    wave = cv2.resize(cells, region.shape[::-1], interpolation=cv2.INTER_CUBIC)
    inset = size * rng.uniform(0.0, 0.05)
    feather = max(1.0, size * rng.uniform(0.04, 0.14))
    level = (distance - inset + 0.02 * size * wave) / feather
    return _finish(level, region)


def soft_parts_mask(
    region: np.ndarray, keypoints: np.ndarray, parts: list[str], rng: np.random.Generator
) -> np.ndarray:
    """Soft mask [h, w] float32 of ``parts`` ("eyes", "nose", "mouth") inside ``region``."""
    eyes, mouth = keypoints[:2].mean(0), keypoints[3:].mean(0)
    unit = max(float(np.linalg.norm(mouth - eyes)), 2.0)  # eyes to mouth, pixels
    roll = face_roll(keypoints)
    # Half axes across and along the face, in units
    shapes = {
        "eyes": (eyes, 1.0, 0.36),
        "nose": (keypoints[2] - 0.1 * (keypoints[2] - eyes), 0.42, 0.5),
        "mouth": (mouth, 0.66, 0.36),
    }
    level = np.full(region.shape, -np.inf, np.float32)
    x = np.arange(region.shape[1], dtype=np.float32) + 0.5
    y = np.arange(region.shape[0], dtype=np.float32)[:, None] + 0.5
    for part in parts:
        centre, across, along = shapes[part]
        dx, dy = x - centre[0], y - centre[1]
        p = (dx * np.cos(roll) + dy * np.sin(roll)) / (across * unit * rng.uniform(0.9, 1.15))
        q = (dy * np.cos(roll) - dx * np.sin(roll)) / (along * unit * rng.uniform(0.9, 1.15))
        inside = (1 - np.sqrt(p**2 + q**2)) * along * unit
        level = np.maximum(level, inside / max(1.0, unit * rng.uniform(0.08, 0.16)))
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5)
    return _finish(np.minimum(level, distance), region)


def _finish(level: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Clip a level to a soft mask; a region too thin for it is taken whole."""
    ramp = np.clip(level, 0, 1)
    soft = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32) * region
    if not (soft > 0.5).any():
        soft = region.astype(np.float32)
    return soft


def _checked(values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}, got {values!r}")
    return array

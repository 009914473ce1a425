"""Two pictures of one scene, laid over each other.

Matching points (SIFT, Lowe 2004) give a projective map, by random sampling (RANSAC); ECC
(Evangelidis and Psarakis 2008) makes it finer. OpenCV does the arithmetic.

Shape letters: H, W height and width of the picture that is not moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 1200  # pixels of the long side that points are looked for at
MAX_POINTS = 4000
MATCH_RATIO = 0.75  # of the distances to the nearest and the second nearest point (Lowe)
REACH = 3.0  # pixels at ``SIDE`` by which a matching point may be off the map
MIN_POINTS = 12  # that agree on the map: fewer agree by chance too
MIN_SHARE = 0.2  # of the matches that agree
MAX_STRETCH = 8.0  # of an edge of the picture, either way
FINE_SIDE = 600  # pixels of the long side for ECC
FINE_STEPS, FINE_CHANGE = 60, 1e-5
BLUR = 5  # pixels, odd: for ECC


@dataclass(frozen=True)
class Alignment:
    """How one picture lies on another.

    Attributes:
        matrix: [3, 3] float64, takes (x, y, 1) of the moved picture to the one that stays.
        agreeing: points that agree on it.
        matches: points that were matched.
    """

    matrix: np.ndarray
    agreeing: int
    matches: int


def align(moved: np.ndarray, fixed: np.ndarray) -> Alignment | None:
    """How ``moved`` lies on ``fixed``; None where they show no common scene.

    Args:
        moved, fixed: [., ., 3] uint8 RGB, of any sizes.
    """
    small_moved, scale_moved = _grey(moved, SIDE)
    small_fixed, scale_fixed = _grey(fixed, SIDE)
    pairs = _matches(small_moved, small_fixed)
    if len(pairs) < MIN_POINTS:
        return None
    matrix, agrees = cv2.findHomography(pairs[:, :2], pairs[:, 2:], cv2.RANSAC, REACH)
    agreeing = 0 if agrees is None else int(agrees.sum())
    if matrix is None or agreeing < max(MIN_POINTS, MIN_SHARE * len(pairs)):
        return None
    full = np.diag([1 / scale_fixed] * 2 + [1]) @ matrix @ np.diag([scale_moved] * 2 + [1])
    if not _is_plausible(full, moved.shape[:2]):
        return None
    return Alignment(_finer(full, moved, fixed), agreeing, len(pairs))


def lay_over(
    moved: np.ndarray, alignment: Alignment, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The moved picture as it lies on the other.

    Args:
        moved: [., ., 3] uint8.
        alignment: of it.
        size: (H, W).

    Returns:
        [H, W, 3] uint8, and [H, W] bool: where the moved picture has pixels.
    """
    height, width = size
    # Area averages where it shrinks: else a larger copy would differ by its sharpness alone
    matrix, source = alignment.matrix, moved
    shrink = _scale_of(matrix, moved.shape[:2])
    if shrink < 1:
        size_then = tuple(max(1, round(edge * shrink)) for edge in moved.shape[1::-1])
        source = cv2.resize(moved, size_then, interpolation=cv2.INTER_AREA)
        back = [old / new for old, new in zip(moved.shape[1::-1], size_then, strict=True)]
        # Pixels are squares: their middles, not their corners, are at whole numbers
        offsets = [(factor - 1) / 2 for factor in back]
        matrix = matrix @ np.array(
            [[back[0], 0, offsets[0]], [0, back[1], offsets[1]], [0, 0, 1]], dtype=np.float64
        )
    laid = cv2.warpPerspective(source, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = np.full(source.shape[:2], 255, np.uint8)
    covered = cv2.warpPerspective(inside, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return laid, covered == 255


def _grey(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Brightness at a long side of at most ``side``, and its scale."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, side / max(grey.shape))
    if scale < 1:
        size = tuple(max(1, round(edge * scale)) for edge in grey.shape[::-1])
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey, scale


def _matches(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N, 4] float32 (x, y) in one picture and in the other, of points that look alike."""
    finder = cv2.SIFT.create(MAX_POINTS)
    found = [finder.detectAndCompute(image, None) for image in (one, other)]
    (points, descriptors), (other_points, other_descriptors) = found
    if descriptors is None or other_descriptors is None or len(other_points) < 2:
        return np.zeros((0, 4), np.float32)
    nearest = cv2.BFMatcher().knnMatch(descriptors, other_descriptors, k=2)
    pairs = [
        (*points[first.queryIdx].pt, *other_points[first.trainIdx].pt)
        for first, second in nearest
        if first.distance < MATCH_RATIO * second.distance
    ]
    return np.array(pairs, dtype=np.float32).reshape(-1, 4)


def _corners(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """[4, 2], where the corners of a picture of (height, width) go; None beyond the horizon."""
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    placed = corners @ matrix.T
    if (placed[:, 2] <= 1e-6).any():
        return None
    return placed[:, :2] / placed[:, 2:]


def _is_plausible(matrix: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a picture stays a convex quadrangle that is not much larger, smaller or mirrored."""
    placed = _corners(matrix, size) if np.isfinite(matrix).all() else None
    if placed is None:
        return False
    edges = np.roll(placed, -1, axis=0) - placed
    turned = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * turned[:, 1] - edges[:, 1] * turned[:, 0]
    lengths = np.hypot(*edges.T)
    before = np.array([size[1], size[0], size[1], size[0]], dtype=float)
    stretch = lengths / before
    return bool(
        (turns > 0).all() and (stretch < MAX_STRETCH).all() and (stretch > 1 / MAX_STRETCH).all()
    )


def _scale_of(matrix: np.ndarray, size: tuple[int, int]) -> float:
    """By how much a picture grows: the root of its area after and before."""
    placed = _corners(matrix, size)
    if placed is None:
        return 1.0
    x, y = placed.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    return float(np.sqrt(area / (size[0] * size[1])))


def _finer(matrix: np.ndarray, moved: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """The map after ECC, where that finds one; else as it was."""
    small_fixed, scale_fixed = _grey(fixed, FINE_SIDE)
    small_moved, scale_moved = _grey(moved, FINE_SIDE)
    to_small = np.diag([scale_fixed] * 2 + [1]) @ matrix @ np.diag([1 / scale_moved] * 2 + [1])
    start = np.linalg.inv(to_small)  # ECC's map leads from the picture that stays
    start = (start / start[2, 2]).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, FINE_STEPS, FINE_CHANGE)
    try:
        everywhere = np.full(small_moved.shape, 255, np.uint8)
        _, found = cv2.findTransformECC(
            small_fixed, small_moved, start, cv2.MOTION_HOMOGRAPHY, criteria, everywhere, BLUR
        )
    except cv2.error:  # it does not converge
        return matrix
    better = np.linalg.inv(found.astype(np.float64))
    full = np.diag([1 / scale_fixed] * 2 + [1]) @ better @ np.diag([scale_moved] * 2 + [1])
    return full if _is_plausible(full, moved.shape[:2]) else matrix

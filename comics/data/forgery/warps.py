"""Geometry of forgeries: similarity alignment, small affine and elastic warps.

Shape letters: h, w window around one face; patches are float32 RGB, 0-255. Points are (x, y)
pixels, pixel centres at half integers.
"""

from __future__ import annotations

import cv2
import numpy as np

INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3] matrix of the rotation, scale and shift that best take ``source`` to ``target``.

    Least squares over points [K, 2], K >= 2, without reflection. As complex numbers the map is
    z -> m z + t with m = sum conj(s) t' / sum |s|^2 over centred points.

    Raises:
        ValueError: if all source points coincide.
    """
    centre, wanted = source.mean(0), target.mean(0)
    s = (source - centre) @ np.array([1, 1j])
    t = (target - wanted) @ np.array([1, 1j])
    spread = float((np.abs(s) ** 2).sum())
    if spread == 0:
        raise ValueError("points that all coincide fix no similarity")
    m = (np.conj(s) * t).sum() / spread
    linear = np.array([[m.real, -m.imag], [m.imag, m.real]])
    return np.hstack([linear, (wanted - linear @ centre)[:, None]])


def warp(
    image: np.ndarray, matrix: np.ndarray, shape: tuple[int, int], interpolation: str = "linear"
) -> np.ndarray:
    """``image`` moved by ``matrix`` [2, 3] into a window of ``shape`` (h, w).

    A picture that shrinks is low-passed first, so that it does not alias.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.9:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / max(scale, 0.02))
    # warpAffine puts pixel centres at integers
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5
    return cv2.warpAffine(
        image,
        shifted,
        shape[::-1],
        flags=INTERPOLATIONS[interpolation],
        borderMode=cv2.BORDER_REFLECT_101,
    )


def jitter_warp(
    patch: np.ndarray,
    region: np.ndarray,
    centre: np.ndarray,
    size: float,
    rng: np.random.Generator,
    amount: float,
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Small affine and elastic warp of a face.

    Args:
        patch: [h, w, 3] float32 RGB.
        region: [h, w] bool, the face.
        centre: (x, y) that rotation and scale leave in place.
        size: of the face, pixels.
        rng: random source.
        amount: 1 turns by up to 3 degrees, scales by up to 3 %, shifts by up to 2 % of ``size``
            and bends by about 1.5 % of it.

    Returns:
        The moved patch, where the moved face is [h, w] bool, and the parameters.
    """
    angle = np.deg2rad(rng.uniform(-3, 3) * amount)
    scale = 1 + rng.uniform(-0.03, 0.03) * amount
    shift = rng.uniform(-0.02, 0.02, 2) * amount * size
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    height, width = patch.shape[:2]
    field = rng.standard_normal((2, 4, 4), dtype=np.float32) * np.float32(0.015 * size * amount)
    bend = [cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in field]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    dx, dy = x + 0.5 - centre[0], y + 0.5 - centre[1]
    from_x = linear[0, 0] * dx + linear[0, 1] * dy + centre[0] + shift[0] - 0.5 + bend[0]
    from_y = linear[1, 0] * dx + linear[1, 1] * dy + centre[1] + shift[1] - 0.5 + bend[1]
    maps = (from_x.astype(np.float32), from_y.astype(np.float32), cv2.INTER_LINEAR)
    moved = cv2.remap(patch, *maps, borderMode=cv2.BORDER_REFLECT_101)
    shown = cv2.remap(region.astype(np.float32), *maps, borderMode=cv2.BORDER_REFLECT_101) > 0.99
    record = {
        "angle": round(float(np.rad2deg(angle)), 2),
        "scale": round(float(scale), 3),
        "shift": [round(float(value), 2) for value in shift],
    }
    return moved, shown, record

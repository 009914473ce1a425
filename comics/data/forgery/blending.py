"""Putting an altered patch back: colours, then alpha or Poisson blending.

Shape letters: h, w window around one face; patches are float32 RGB, 0-255.
"""

from __future__ import annotations

import cv2
import numpy as np

POISSON_MARGIN = 4  # pixels around the window: the solver needs a border outside the mask
CONTRAST_BOUNDS = (0.7, 1.3)  # of a colour transfer
MIN_POISSON_SIDE = 6  # pixels; smaller masks are blended by alpha


def transfer_colour(
    patch: np.ndarray, patch_region: np.ndarray, target: np.ndarray, target_region: np.ndarray
) -> np.ndarray:
    """Give ``patch`` the mean and deviation of ``target`` in CIE LAB (Reinhard et al. 2001).

    Args:
        patch: [h, w, 3] float32 RGB, 0-255; statistics over ``patch_region`` [h, w] bool.
        patch_region: where the patch is skin; at least one pixel.
        target: [h, w, 3] float32 RGB, 0-255; statistics over ``target_region`` [h, w] bool.
        target_region: where the target is skin; at least one pixel.

    Returns:
        [h, w, 3] float32 RGB, 0-255.
    """
    source_lab = cv2.cvtColor(np.clip(patch, 0, 255) / np.float32(255), cv2.COLOR_RGB2LAB)
    target_lab = cv2.cvtColor(np.clip(target, 0, 255) / np.float32(255), cv2.COLOR_RGB2LAB)
    mean, deviation = _statistics(source_lab[patch_region])
    wanted_mean, wanted_deviation = _statistics(target_lab[target_region])
    # A flat patch has no deviation to scale; the bounds keep noise from becoming texture
    ratio = np.clip(wanted_deviation / deviation, *CONTRAST_BOUNDS)
    lab = ((source_lab - mean) * ratio + wanted_mean).astype(np.float32)
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255


def alpha_blend(patch: np.ndarray, target: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """soft * patch + (1 - soft) * target, rounded; exactly ``target`` where ``soft`` is 0.

    Args:
        patch: [h, w, 3] float32 RGB, 0-255.
        target: [h, w, 3] uint8 RGB.
        soft: [h, w] float32 in [0, 1].

    Returns:
        [h, w, 3] uint8 RGB.
    """
    weight = soft[..., None]
    mixed = weight * np.clip(patch, 0, 255) + (1 - weight) * target
    return np.where(weight > 0, np.rint(mixed), target).astype(np.uint8)


def poisson_patch(patch: np.ndarray, target: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """The patch with its gradients kept and the target's colours at the edge of ``soft`` > 0.

    Perez et al. 2003, solved by OpenCV. Arguments as ``alpha_blend``; returns [h, w, 3] float32.
    The patch itself is returned where the mask is smaller than the solver accepts.
    """
    rows, columns = np.flatnonzero((soft > 0).any(1)), np.flatnonzero((soft > 0).any(0))
    if min(np.ptp(rows), np.ptp(columns)) + 1 < MIN_POISSON_SIDE:
        return patch
    pads = ((POISSON_MARGIN, POISSON_MARGIN), (POISSON_MARGIN, POISSON_MARGIN))
    mask = np.pad((soft > 0).astype(np.uint8) * 255, pads)
    source = np.pad(np.clip(np.rint(patch), 0, 255).astype(np.uint8), (*pads, (0, 0)), mode="edge")
    around = np.pad(target, (*pads, (0, 0)), mode="edge")
    x, y, width, height = cv2.boundingRect(mask)
    centre = (x + width // 2, y + height // 2)  # seamlessClone centres the mask's bounds there
    cloned = cv2.seamlessClone(source, around, mask, centre, cv2.NORMAL_CLONE)
    inner = slice(POISSON_MARGIN, -POISSON_MARGIN)
    return cloned[inner, inner].astype(np.float32)


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(0), values.std(0) + np.float32(1e-3)

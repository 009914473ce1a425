"""Contours as rays from a centre (PolarMask, Xie et al. 2020, arXiv:1909.13226, section 3.2), and
their loss and centre-ness (3.3 and 3.4).

Ray k of R goes from the centre at the angle 2 pi k / R, x to the right and y down. See
docs/methods.md#polarmask.

Shape letters: F faces; P centres; R rays; H, W image; S samples of a ray.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comics.ops.mask_parts import mask_boxes

SMALLEST_RAY = 0.5  # pixels, of a ray that meets no pixel of the mask
CENTRES_AT_ONCE = 64  # centres whose samples are in memory together


def directions(count: int, like: Tensor) -> Tensor:
    """Unit vectors (x, y) of the rays: [R, 2]."""
    angle = torch.arange(count, device=like.device, dtype=torch.float64) * (2 * math.pi / count)
    return torch.stack((angle.cos(), angle.sin()), dim=1).to(like.dtype)


def ray_lengths(masks: Tensor, face: Tensor, centres: Tensor, count: int, *, step: float) -> Tensor:
    """How far each ray goes until it leaves its face's mask for the last time, pixels.

    A ray is sampled every ``step`` pixels; its length is half a step beyond the last sample within
    the mask, so hollows are filled. A ray without such a sample, as some from a centre outside the
    mask, has ``SMALLEST_RAY``.

    Args:
        masks: [F, H, W] bool.
        face: [P] int64, whose mask.
        centres: [P, 2] (x, y); pixel (i, j) covers [j, j + 1) x [i, i + 1).
        count: R.
        step: pixels.

    Returns:
        [P, R] float32.
    """
    if not len(face):
        return centres.new_zeros(0, count)
    extents = mask_boxes(masks)[face].to(centres)
    corners = torch.maximum((extents[:, :2] - centres).abs(), (extents[:, 2:] - centres).abs())
    reach = corners.norm(dim=1)
    unit = directions(count, centres)
    found = []
    for part, its_centres, its_reach in zip(
        face.split(CENTRES_AT_ONCE),
        centres.split(CENTRES_AT_ONCE),
        reach.split(CENTRES_AT_ONCE),
        strict=True,
    ):
        samples = int(math.ceil(float(its_reach.max()) / step)) + 1
        radius = torch.arange(samples, device=centres.device) * step
        place = its_centres[:, None, None] + radius[:, None] * unit[:, None]  # [p, R, S, 2]
        inside = _at_pixels(masks, part, place)
        last = torch.where(inside, radius + step / 2, SMALLEST_RAY).amax(dim=2)
        found.append(last.clamp(min=SMALLEST_RAY))
    return torch.cat(found)


def _at_pixels(masks: Tensor, face: Tensor, place: Tensor) -> Tensor:
    """Values of masks at points [P, R, S, 2]: [P, R, S] bool; False beyond the image."""
    height, width = masks.shape[1:]
    column, row = place.floor().long().unbind(dim=3)
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    return masks[face[:, None, None], row, column] & within


def contour(centres: Tensor, rays: Tensor) -> Tensor:
    """Ends of rays: [P, R, 2] (x, y) from centres [P, 2] and lengths [P, R], both pixels."""
    return centres[:, None] + rays[..., None] * directions(rays.shape[1], rays)


def box_distances(rays: Tensor) -> Tensor:
    """How far contours reach to the left, top, right and bottom: [..., R] to [..., 4], >= 0."""
    ends = rays[..., None] * directions(rays.shape[-1], rays)
    low, high = ends.amin(dim=-2), ends.amax(dim=-2)
    return torch.cat((-low, high), dim=-1).clamp(min=0)


def polar_iou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """log(sum of the larger / sum of the smaller) over the rays of each contour (eq. 10).

    Args:
        predicted, wanted: [P, R], positive, of one unit.

    Returns:
        [P] >= 0.
    """
    smaller, larger = torch.minimum(predicted, wanted), torch.maximum(predicted, wanted)
    return larger.sum(dim=1).log() - smaller.sum(dim=1).log()


def polar_centerness(rays: Tensor) -> Tensor:
    """[P] in (0, 1]: sqrt(shortest / longest) of positive rays [P, R] (eq. 3)."""
    return (rays.amin(dim=1) / rays.amax(dim=1)).sqrt()

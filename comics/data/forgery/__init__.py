"""Forging real faces, with exact masks and a record of what was done.

``forge_face`` alters one face of a photo by a method of the table ``METHODS``. The altered patch
gets noise and JPEG compression of its own before it is pasted: as in real forgeries, the traces
of another history are what tells it from its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comics.data.forgery.blending import alpha_blend, poisson_patch
from comics.data.forgery.history import add_history
from comics.data.forgery.masks import SourceFace, describe_face
from comics.data.forgery.methods import (
    DEFAULT_METHODS,
    METHODS,
    PLAIN_METHODS,
    Material,
    Method,
    Window,
)
from comics.data.forgery.networks import FaceNetwork

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "PLAIN_METHODS",
    "ForgedFace",
    "Method",
    "SourceFace",
    "describe_face",
    "forge_face",
]

# The window reaches this share of the face's size, and so many pixels, beyond the face: room for
# filters and blending
MARGIN_SHARE, MARGIN_PIXELS = 0.15, 8


@dataclass(frozen=True)
class ForgedFace:
    """A photo with one face forged.

    Attributes:
        image: [H, W, 3] uint8 RGB; outside ``soft_mask`` > 0 it is the original, bit by bit.
        mask: [H, W] bool, the region of the face: the definition of real faces' masks
            (``describe_face``), so that masks tell nothing about the label.
        soft_mask: [H, W] float32 in [0, 1], weight of the altered patch; 0 outside ``mask``.
        altered: [H, W] bool, ``soft_mask`` > 0.5: where the patch outweighs the photo.
        method: a name of ``METHODS``.
        parameters: what was drawn, ready for JSON.
    """

    image: np.ndarray
    mask: np.ndarray
    soft_mask: np.ndarray
    altered: np.ndarray
    method: str
    parameters: dict


def forge_face(
    face: SourceFace,
    rng: np.random.Generator,
    *,
    method: str,
    donor: SourceFace | None = None,
    network: FaceNetwork | None = None,
    strength: float = 1.0,
) -> ForgedFace:
    """Forge one face.

    Args:
        face: the face and its photo, from ``describe_face``; the photo is not changed.
        rng: source of everything random; the same state gives the same forgery.
        method: a name of ``METHODS``.
        donor: another face (of this photo or another), for methods that need one.
        network: for methods that draw the face with one.
        strength: of the traces: towards 0 harder to find, 1 usual, 2 plain; in (0, 3].

    Raises:
        KeyError: for an unknown method.
        ValueError: for a strength out of range, a missing donor or network,
            or a network without a latent for a method that needs one.
    """
    if method not in METHODS:
        raise KeyError(f"no forgery method {method!r}. Choices: {', '.join(METHODS)}")
    if not 0 < strength <= 3:
        raise ValueError(f"strength must be in (0, 3], got {strength}")
    entry = METHODS[method]
    if entry.needs_donor and donor is None:
        raise ValueError(f"method {method!r} needs a donor face")
    if entry.network and network is None:
        raise ValueError(f"method {method!r} needs a network")
    place = _window_of(face.mask)
    target = face.image[place]
    origin = np.array([place[1].start, place[0].start])
    landmarks = None if face.landmarks is None else face.landmarks - origin
    window = Window(target.astype(np.float32), face.mask[place], face.keypoints - origin, landmarks)
    altered = entry.function(window, rng, strength, Material(donor, network))
    patch, parameters = altered.patch, {"strength": strength, **altered.parameters}
    if entry.history:
        patch, parameters["history"] = add_history(patch, rng, strength)
    if entry.blend == "poisson":
        patch = poisson_patch(patch, target, altered.soft)
    image, soft = face.image.copy(), np.zeros(face.mask.shape, np.float32)
    image[place] = alpha_blend(patch, target, altered.soft)
    soft[place] = altered.soft
    return ForgedFace(
        image=image,
        mask=face.mask,
        soft_mask=soft,
        altered=soft > 0.5,
        method=method,
        parameters=parameters,
    )


def _window_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask's bounds with the margin, clipped to the image."""
    slices = []
    for axis in (1, 0):
        where = np.flatnonzero(mask.any(axis))
        margin = MARGIN_PIXELS + round(MARGIN_SHARE * np.ptp(where))
        size = mask.shape[1 - axis]
        slices.append(slice(max(0, where[0] - margin), min(size, where[-1] + 1 + margin)))
    return slices[0], slices[1]

"""The table of forgeries: from one real face to an altered patch and its soft mask.

Shape letters: h, w window around the face to forge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comics.data.forgery import traces
from comics.data.forgery.blending import transfer_colour
from comics.data.forgery.masks import SourceFace, soft_face_mask, soft_parts_mask
from comics.data.forgery.warps import INTERPOLATIONS, jitter_warp, similarity_transform, warp

PARTS = ("eyes", "nose", "mouth")
# A moved or other face that covers less of the region than this is used beyond its edge
MIN_SHOWN_SHARE = 0.5


@dataclass(frozen=True)
class Window:
    """One face in the window that is worked on.

    Attributes:
        patch: [h, w, 3] float32 RGB, 0-255.
        region: [h, w] bool, the face.
        keypoints: [5, 2] in pixels of the window.
    """

    patch: np.ndarray
    region: np.ndarray
    keypoints: np.ndarray

    @property
    def size(self) -> float:
        """Square root of the face's area, pixels."""
        return float(np.sqrt(self.region.sum()))


@dataclass(frozen=True)
class Altered:
    """What a method makes: ``patch`` [h, w, 3] float32, ``soft`` [h, w] in [0, 1], its record."""

    patch: np.ndarray
    soft: np.ndarray
    parameters: dict


@dataclass(frozen=True)
class Method:
    """A way to forge; ``blend`` is "alpha" or "poisson", ``family`` groups kindred methods."""

    function: Callable[[Window, np.random.Generator, float, SourceFace | None], Altered]
    family: str
    needs_donor: bool = False
    blend: str = "alpha"


def self_blend(window: Window, rng, strength: float, donor=None) -> Altered:
    """The face over itself: colour and frequency jitter, small affine and elastic warp.

    After Shiohara and Yamasaki 2022 (self-blended images); the parameters are our own.
    """
    patch, colour = traces.jitter_colour(window.patch, rng, strength)
    patch, shown, geometry = _jittered(window, patch, rng, min(strength, 2.0))
    soft = soft_face_mask(window.region & shown, rng)
    return Altered(patch, soft, {"colour": colour, "warp": geometry})


def swap(window: Window, rng, strength: float, donor: SourceFace) -> Altered:
    """Another face, aligned by a similarity of the keypoints, in this face's colours."""
    patch, shown, record = _aligned_donor(window, donor, rng)
    soft = soft_face_mask(window.region & shown, rng)
    return Altered(transfer_colour(patch, shown, window.patch, window.region), soft, record)


def part_swap(window: Window, rng, strength: float, donor: SourceFace) -> Altered:
    """Eyes, nose or mouth of another face."""
    parts = _draw_parts(rng)
    patch, shown, record = _aligned_donor(window, donor, rng)
    soft = soft_parts_mask(window.region & shown, window.keypoints, parts, rng)
    coloured = transfer_colour(patch, shown, window.patch, window.region)
    return Altered(coloured, soft, {"parts": parts, **record})


def part_warp(window: Window, rng, strength: float, donor=None) -> Altered:
    """Eyes, nose or mouth of the same face, moved and bent (more than in self-blending)."""
    parts = _draw_parts(rng)
    amount = min(1.6 * strength, 3.0)
    patch, shown, record = _jittered(window, window.patch, rng, amount)
    soft = soft_parts_mask(window.region & shown, window.keypoints, parts, rng)
    return Altered(patch, soft, {"parts": parts, "warp": record})


def part_reblend(window: Window, rng, strength: float, donor=None) -> Altered:
    """Eyes, nose or mouth of the same face, resynthesised and blended in again."""
    parts = _draw_parts(rng)
    patch, colour = traces.jitter_colour(window.patch, rng, 0.5 * strength)
    patch, record = traces.down_up(patch, rng, strength)
    soft = soft_parts_mask(window.region, window.keypoints, parts, rng)
    return Altered(patch, soft, {"parts": parts, "colour": colour, **record})


def _whole_face(trace: Callable) -> Callable:
    """A method that applies ``trace`` to the whole face."""

    def method(window: Window, rng, strength: float, donor=None) -> Altered:
        patch, record = trace(window.patch, rng, strength)
        return Altered(patch, soft_face_mask(window.region, rng), record)

    method.__doc__ = trace.__doc__
    return method


METHODS: dict[str, Method] = {
    "self_blend": Method(self_blend, "self-blending"),
    "swap_alpha": Method(swap, "swap", needs_donor=True),
    "swap_poisson": Method(swap, "swap", needs_donor=True, blend="poisson"),
    "part_swap": Method(part_swap, "part edit", needs_donor=True),
    "part_warp": Method(part_warp, "part edit"),
    "part_reblend": Method(part_reblend, "part edit"),
    "down_up": Method(_whole_face(traces.down_up), "resynthesis"),
    "blur_sharpen": Method(_whole_face(traces.blur_sharpen), "resynthesis"),
    "upsampling_grid": Method(_whole_face(traces.upsampling_grid), "resynthesis"),
    "dct_truncation": Method(_whole_face(traces.dct_truncation), "resynthesis"),
    "pca_autoencoder": Method(_whole_face(traces.pca_autoencoder), "resynthesis"),
}


def _draw_parts(rng: np.random.Generator) -> list[str]:
    """Two or three of the parts: one alone is too little to be seen in a small face."""
    count = int(rng.integers(2, len(PARTS) + 1))
    return sorted(str(part) for part in rng.choice(PARTS, count, replace=False))


def _jittered(
    window: Window, patch: np.ndarray, rng: np.random.Generator, amount: float
) -> tuple[np.ndarray, np.ndarray, dict]:
    """``jitter_warp`` about the centre of the face."""
    rows, columns = np.nonzero(window.region)
    centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    patch, shown, record = jitter_warp(patch, window.region, centre, window.size, rng, amount)
    return patch, _usable(shown, window.region), record


def _usable(shown: np.ndarray, region: np.ndarray) -> np.ndarray:
    """``shown``, or all of ``region`` where too little of it is shown."""
    enough = (shown & region).sum() >= MIN_SHOWN_SHARE * region.sum()
    return shown if enough else region


def _aligned_donor(
    window: Window, donor: SourceFace, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """The donor's face over the window: patch, where the donor's skin shows, and a record."""
    matrix = similarity_transform(donor.keypoints, window.keypoints)
    shape = window.region.shape
    name = str(rng.choice(list(INTERPOLATIONS)))
    patch = warp(donor.image.astype(np.float32), matrix, shape, name)
    shown = warp(donor.mask.astype(np.float32), matrix, shape) > 0.5
    shown = _usable(shown, window.region)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return patch, shown, {"donor_scale": round(scale, 3), "interpolation": name}

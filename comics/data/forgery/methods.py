"""The table of forgeries: from one real face to an altered patch and its soft mask.

Shape letters: h, w window around the face to forge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from comics.data.forgery import traces
from comics.data.forgery.blending import poisson_patch, transfer_colour
from comics.data.forgery.masks import (
    SourceFace,
    inner_region,
    soft_face_mask,
    soft_parts_mask,
)
from comics.data.forgery.networks import MULTIPLE, FaceNetwork
from comics.data.forgery.self_blended import SelfBlending, change_colour, moved_source
from comics.data.forgery.warps import INTERPOLATIONS, jitter_warp, similarity_transform, warp

PARTS = ("eyes", "nose", "mouth")
# A moved or other face that covers less of the region than this is used beyond its edge
MIN_SHOWN_SHARE = 0.5
# Sides that a network works at, pixels, and the share of the face's own size that is drawn
NETWORK_SIDES, NETWORK_SCALE = (64, 192), (0.8, 1.3)
MIX_WEIGHT = (0.3, 0.7)  # of the other face's latent
# Blurs that a sharp donor is tried with, so that it is as soft as the face it replaces
SOFTENING = (0.5, 0.7, 0.9, 1.2, 1.6, 2.2)
SBI = SelfBlending()
SBI_FEATHER = 0.05  # of the face's size: over which a self-blended image fades at the face's edge
GREY_DEVIATION = 2.0  # grey levels between the colours of a picture without colour


@dataclass(frozen=True)
class Window:
    """One face in the window that is worked on.

    Attributes:
        patch: [h, w, 3] float32 RGB, 0-255.
        region: [h, w] bool, the face.
        keypoints: [5, 2] in pixels of the window.
        landmarks: [68, 2] in pixels of the window, where known.
    """

    patch: np.ndarray
    region: np.ndarray
    keypoints: np.ndarray
    landmarks: np.ndarray | None = None

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
class Material:
    """What a method works with besides the face: another face, a network; None where unneeded."""

    donor: SourceFace | None = None
    network: FaceNetwork | None = None


@dataclass(frozen=True)
class Method:
    """A way to forge.

    Attributes:
        function: (window, rng, strength, material) -> ``Altered``.
        family: groups kindred methods.
        donor: "photo" (a face of another photo), "generated" (an aligned generated face) or "".
        network: "image" (any network), "latent" (encoder and decoder) or "".
        blend: "alpha" or "poisson".
        history: whether the patch gets noise and JPEG of its own before it is pasted.
    """

    function: Callable[[Window, np.random.Generator, float, Material], Altered]
    family: str
    donor: str = ""
    network: str = ""
    blend: str = "alpha"
    history: bool = True

    @property
    def needs_donor(self) -> bool:
        """Whether it needs another face."""
        return bool(self.donor)

    @property
    def needs_more(self) -> bool:
        """Whether it needs files that a set of photos does not have: donors, or a network."""
        return self.donor == "generated" or bool(self.network)


def self_blend(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """The face over itself: colour and frequency jitter, small affine and elastic warp.

    After Shiohara and Yamasaki 2022 (self-blended images); the parameters are our own.
    """
    patch, colour = traces.jitter_colour(window.patch, rng, strength)
    patch, shown, geometry = _jittered(window, patch, rng, min(strength, 2.0))
    soft = soft_face_mask(window.region & shown, rng)
    return Altered(patch, soft, {"colour": colour, "warp": geometry})


def swap(window: Window, rng: np.random.Generator, strength: float, material: Material) -> Altered:
    """Another face, aligned by a similarity of the keypoints, in this face's colours."""
    patch, shown, record = _aligned_donor(window, material.donor, rng)
    soft = soft_face_mask(window.region & shown, rng)
    return Altered(transfer_colour(patch, shown, window.patch, window.region), soft, record)


def part_swap(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """Eyes, nose or mouth of another face."""
    parts = _draw_parts(rng)
    patch, shown, record = _aligned_donor(window, material.donor, rng)
    soft = soft_parts_mask(window.region & shown, window.keypoints, parts, rng)
    coloured = transfer_colour(patch, shown, window.patch, window.region)
    return Altered(coloured, soft, {"parts": parts, **record})


def part_warp(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """Eyes, nose or mouth of the same face, moved and bent (more than in self-blending)."""
    parts = _draw_parts(rng)
    amount = min(1.6 * strength, 3.0)
    patch, shown, record = _jittered(window, window.patch, rng, amount)
    soft = soft_parts_mask(window.region & shown, window.keypoints, parts, rng)
    return Altered(patch, soft, {"parts": parts, "warp": record})


def part_reblend(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """Eyes, nose or mouth of the same face, resynthesised and blended in again."""
    parts = _draw_parts(rng)
    patch, colour = traces.jitter_colour(window.patch, rng, 0.5 * strength)
    patch, record = traces.down_up(patch, rng, strength)
    soft = soft_parts_mask(window.region, window.keypoints, parts, rng)
    return Altered(patch, soft, {"parts": parts, "colour": colour, **record})


def generated_swap(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """A generated face, as OpenForensics was made: aligned, recoloured, inside the inner face."""
    patch, shown, record = _aligned_donor(window, material.donor, rng)
    inner = inner_region(window.region, window.keypoints, rng) & shown
    if not inner.any():
        inner = window.region
    if _is_grey(window.patch):
        patch = np.repeat(patch.mean(-1, keepdims=True), 3, axis=-1)
    patch = transfer_colour(patch, inner, window.patch, inner)
    patch, sigma = _as_soft(patch, window.patch, inner)
    return Altered(patch, soft_face_mask(inner, rng), record | {"softened": sigma})


def neural_trace(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """The face as an image network draws it, at a drawn working size."""
    network = material.network
    assert network is not None  # as Method.network asks
    picture, record = _working(window.patch, rng, network)
    drawn = network.round_trip(picture[None])[0]
    patch = _resized(drawn, window.patch.shape[:2])
    return Altered(patch, soft_face_mask(window.region, rng), record)


def neural_mix(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """The decoded mixture of the latents of this face and of an aligned other one."""
    network = material.network
    assert network is not None  # as Method.network asks
    donor, shown, record = _aligned_donor(window, material.donor, rng)
    donor = transfer_colour(donor, shown, window.patch, window.region)
    # Beside the other face stays what was there, so that the mixture is of faces alone
    donor = np.where(shown[..., None], donor, window.patch)
    picture, size = _working(window.patch, rng, network)
    other = _to_uint8(_resized(donor, picture.shape[:2]))
    weight = round(float(rng.uniform(*MIX_WEIGHT)), 3)
    drawn = network.mix(picture[None], other[None], [weight])[0]
    patch = _resized(drawn, window.patch.shape[:2])
    soft = soft_face_mask(window.region & shown, rng)
    return Altered(patch, soft, {"weight": weight, **size, **record})


def self_blended_image(
    window: Window, rng: np.random.Generator, strength: float, material: Material
) -> Altered:
    """The face over its changed, moved copy, as Shiohara and Yamasaki 2022 do it."""
    changed, colour = change_colour(window.patch, rng, SBI)
    patch, soft, geometry = moved_source(
        changed, window.region, window.keypoints, rng, SBI, window.landmarks
    )
    # In a photo the forged region lies inside the face's, fading towards its edge
    distance = cv2.distanceTransform(window.region.astype(np.uint8), cv2.DIST_L2, 5)
    soft = soft * np.clip(distance / max(1.0, SBI_FEATHER * window.size), 0, 1) * window.region
    ratio = float(rng.choice(SBI.ratios))
    poisson = bool(rng.random() < SBI.poisson_prob)
    if poisson and (soft > 0).any():
        patch = poisson_patch(patch, _to_uint8(window.patch), soft)
    record = {**colour, **geometry, "ratio": ratio, "poisson": poisson}
    if not (soft > 0.5).any():
        soft = window.region.astype(np.float32)
    # The weight of the source is in the patch, so that the mask says where, not how much
    patch = ratio * patch + (1 - ratio) * window.patch
    return Altered(patch.astype(np.float32), soft.astype(np.float32), record)


def _whole_face(trace: Callable) -> Callable:
    """A method that applies ``trace`` to the whole face."""

    def method(
        window: Window, rng: np.random.Generator, strength: float, material: Material
    ) -> Altered:
        patch, record = trace(window.patch, rng, strength)
        return Altered(patch, soft_face_mask(window.region, rng), record)

    method.__doc__ = trace.__doc__
    return method


METHODS: dict[str, Method] = {
    "self_blend": Method(self_blend, "self-blending"),
    "swap_alpha": Method(swap, "swap", donor="photo"),
    "swap_poisson": Method(swap, "swap", donor="photo", blend="poisson"),
    "part_swap": Method(part_swap, "part edit", donor="photo"),
    "part_warp": Method(part_warp, "part edit"),
    "part_reblend": Method(part_reblend, "part edit"),
    "down_up": Method(_whole_face(traces.down_up), "resynthesis"),
    "blur_sharpen": Method(_whole_face(traces.blur_sharpen), "resynthesis"),
    "upsampling_grid": Method(_whole_face(traces.upsampling_grid), "resynthesis"),
    "dct_truncation": Method(_whole_face(traces.dct_truncation), "resynthesis"),
    "pca_autoencoder": Method(_whole_face(traces.pca_autoencoder), "resynthesis"),
    "self_blended_image": Method(self_blended_image, "self-blending", history=False),
    "generated_swap": Method(generated_swap, "generated face", donor="generated", blend="poisson"),
    "neural_trace": Method(neural_trace, "network", network="image"),
    "neural_mix": Method(neural_mix, "network", donor="photo", network="latent"),
}
# Those that need no file besides the photos
PLAIN_METHODS = tuple(name for name, method in METHODS.items() if not method.needs_more)
# What a set is forged with unless told: not the later ones, so that a seed keeps giving its set
DEFAULT_METHODS = tuple(name for name in PLAIN_METHODS if name != "self_blended_image")


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
    window: Window, donor: SourceFace | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """The donor's face over the window: patch, where the donor's skin shows, and a record."""
    assert donor is not None  # as Method.donor asks
    matrix = similarity_transform(donor.keypoints, window.keypoints)
    shape = window.region.shape
    name = str(rng.choice(list(INTERPOLATIONS)))
    patch = warp(donor.image.astype(np.float32), matrix, shape, name)
    shown = warp(donor.mask.astype(np.float32), matrix, shape) > 0.5
    shown = _usable(shown, window.region)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    return patch, shown, {"donor_scale": round(scale, 3), "interpolation": name}


def _working(
    patch: np.ndarray, rng: np.random.Generator, network: FaceNetwork
) -> tuple[np.ndarray, dict]:
    """A patch at the size that a network works at: [h', w', 3] uint8, and the record of it."""
    if network.fixed_size is not None:
        size = network.fixed_size
    else:
        longest = max(patch.shape[:2])
        side = np.clip(longest * rng.uniform(*NETWORK_SCALE), *NETWORK_SIDES)
        steps = [max(1, round(length * side / longest / MULTIPLE)) for length in patch.shape[:2]]
        size = (steps[0] * MULTIPLE, steps[1] * MULTIPLE)
    return _to_uint8(_resized(patch, size)), {"network_size": [int(side) for side in size]}


def _resized(patch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h', w', 3] float32: area averages where it shrinks, cubic where it grows."""
    if patch.shape[:2] == tuple(size):
        return patch.astype(np.float32)
    shrinks = size[0] * size[1] < patch.shape[0] * patch.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(patch.astype(np.float32), tuple(size)[::-1], interpolation=kind)


def _to_uint8(patch: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(patch), 0, 255).astype(np.uint8)


def _is_grey(patch: np.ndarray) -> bool:
    """Whether a picture has no colour (a black and white photo, also a slightly noisy one)."""
    return float(np.abs(patch - patch.mean(-1, keepdims=True)).mean()) < GREY_DEVIATION


def _as_soft(patch: np.ndarray, target: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, float]:
    """A patch blurred until its finest structure is no stronger than the target's; and the sigma.

    A donor from a sharp picture in an unsharp photo is seen at once.
    """

    def fineness(picture: np.ndarray) -> float:
        grey = picture.mean(-1).astype(np.float32)
        return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[region].mean())

    wanted = fineness(target)
    for sigma in (0.0, *SOFTENING):
        soft = cv2.GaussianBlur(patch, (0, 0), sigma) if sigma else patch
        if fineness(soft) <= wanted:
            break
    return soft, sigma

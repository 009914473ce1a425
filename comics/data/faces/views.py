"""Augmentation of face crops: DCL's data views, and what the other methods share.

An augmentation is drawn once and can then be applied to several pictures of one geometry: a fake,
its paired real picture, another compression of it, its mask. All of them stay aligned.

DCL (docs/methods.md#dcl-views): RandomPatch, high-frequency enhancement, frame shift, corresponding
mixup, "chosen with a certain probability" in random combination; probabilities are the keys
MODEL.FACE.DCL.VIEWS (decision). The order is: mixup, mirror, colour, way to the viewer, high
frequency, patches.

Images are [S, S, 3] uint8 RGB, masks [S, S] bool; no function changes its argument.
Shape letters: S side of a crop; k patches per side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from comics.data.faces.crops import STRAIGHT, Placement
from comics.data.faces.degradations import Degradation
from comics.data.images import image_to_tensor
from comics.data.transforms import MASK_THRESHOLD, resize_image
from comics.data.viewer import Way, draw_way, travel_crop
from comics.data.views import PhotometricView
from comics.ops.srm import srm_residual

# (picture, its own random numbers) -> the picture in other colours
Photometry = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# Residuals beyond this many grey levels are edges, not noise (docs/methods.md#comics-fea)
RESIDUAL_LIMIT = 3.0


def shuffle_patches(image: np.ndarray, grid: int, order: np.ndarray) -> np.ndarray:
    """RandomPatch: cut [S, S, ...] into ``grid`` x ``grid`` patches and lay them in another order.

    Place i, row by row, gets patch ``order[i]``. Patches have the same size; the rows and columns
    that remain at the right and the bottom (S modulo k of them) stay where they are.

    Raises:
        ValueError: if ``order`` is no permutation of the patches, or a patch has no pixel.
    """
    if sorted(order) != list(range(grid * grid)):
        raise ValueError(f"order must be a permutation of 0..{grid * grid - 1}, got {order}")
    height, width = image.shape[0] // grid, image.shape[1] // grid
    if not height or not width:
        raise ValueError(f"{grid} patches per side do not fit into {image.shape[:2]} pixels")
    result = image.copy()
    for place, patch in enumerate(order):
        (row, column), (from_row, from_column) = divmod(place, grid), divmod(int(patch), grid)
        result[row * height : (row + 1) * height, column * width : (column + 1) * width] = image[
            from_row * height : (from_row + 1) * height,
            from_column * width : (from_column + 1) * width,
        ]
    return result


def enhance_high_frequency(image: np.ndarray) -> np.ndarray:
    """Add the SRM residual to an image: "we combine the SRM feature with the original image".

    Residual map i of ``srm_residual`` is added to colour i, cut to +-``RESIDUAL_LIMIT`` grey levels
    (reconstructed: the paper says neither how the two are combined nor the range).
    """
    residual = srm_residual(image_to_tensor(image), truncate=RESIDUAL_LIMIT)
    enhanced = image + residual.permute(1, 2, 0).numpy()
    return np.clip(np.rint(enhanced), 0, 255).astype(np.uint8)


def mix(fake: np.ndarray, real: np.ndarray, share: float) -> np.ndarray:
    """Corresponding mixup: ``share * fake + (1 - share) * real``, rounded."""
    return cv2.addWeighted(fake, share, real, 1 - share, 0)


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for one picture.

    Attributes:
        flip: mirror left and right.
        photometry: colour changes, and the seed that they are drawn with; None for none.
        high_frequency: add the SRM residual.
        grid, patches: of ``shuffle_patches``; None for no shuffling.
        mixup: share of the fake in a mixture with its paired real; None for no mixture.
        placement: of the window that a crop is cut from.
        degradation: what the window goes through before it is resized, and the seed that it is
            drawn with; None for nothing.
        way: to the viewer; None for none.
        part: (left, top, right, bottom) of what is kept of the crop and enlarged to its size, as
            shares of its side; None for all of it.
    """

    flip: bool = False
    photometry: tuple[Photometry, int] | None = None
    high_frequency: bool = False
    grid: int = 1
    patches: tuple[int, ...] | None = None
    mixup: float | None = None
    placement: Placement = STRAIGHT
    way: Way | None = None
    degradation: tuple[Degradation, int] | None = None
    part: tuple[float, float, float, float] | None = None

    def window(self, image: np.ndarray) -> np.ndarray:
        """Apply what comes before a window [H, W, 3] is resized to a crop."""
        if self.degradation is None:
            return image
        degrade, seed = self.degradation
        return degrade(image, np.random.default_rng(seed))

    def image(self, image: np.ndarray) -> np.ndarray:
        """Apply to a picture (all but the mixture); the same changes for every one."""
        if self.part is not None:
            image = resize_image(self._kept(image), image.shape[:2])
        if self.flip:
            image = cv2.flip(image, 1)
        if self.photometry is not None:
            view, seed = self.photometry
            image = view(image, np.random.default_rng(seed))
        if self.way is not None:
            image = travel_crop(image, self.way)
        if self.high_frequency:
            image = enhance_high_frequency(image)
        if self.patches is not None:
            image = shuffle_patches(image, self.grid, np.array(self.patches))
        return image

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Apply the changes of geometry to a mask [S, S] bool."""
        if self.part is not None:
            kept = self._kept(mask).astype(np.uint8) * 255
            mask = resize_image(kept, mask.shape[:2]) > MASK_THRESHOLD
        if self.flip:
            mask = mask[:, ::-1]
        if self.patches is not None:
            mask = shuffle_patches(mask, self.grid, np.array(self.patches))
        return np.ascontiguousarray(mask)

    def _kept(self, image: np.ndarray) -> np.ndarray:
        """``part`` of [S, S, ...], whole pixels and at least one."""
        assert self.part is not None
        height, width = image.shape[:2]
        left, top = int(self.part[0] * width), int(self.part[1] * height)
        right = max(left + 1, round(self.part[2] * width))
        bottom = max(top + 1, round(self.part[3] * height))
        return np.ascontiguousarray(image[top:bottom, left:right])


@dataclass(frozen=True)
class FaceAugmenter:
    """Draws augmentations; attributes are the keys of INPUT.FACE.

    ``photometry`` holds the probabilities and ranges of the colour changes.
    """

    flip_prob: float
    photometry: PhotometricView
    viewer_prob: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    degradation: Degradation | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FaceAugmenter:
        """From INPUT.FACE."""
        face = cfg.INPUT.FACE
        view = PhotometricView(
            jitter_prob=face.JITTER_PROB,
            jitter=face.JITTER,
            gray_prob=face.GRAY_PROB,
            gaussian_prob=face.NOISE_PROB,
            gaussian_sigma=tuple(face.NOISE_SIGMA),
            downscale_prob=face.DOWNSCALE_PROB,
            downscale=2,
            block_prob=0.0,
            salt_pepper_prob=0.0,
        )
        degradation = Degradation.from_config(cfg) if face.DEGRADE.PROB else None
        return cls(
            face.FLIP_PROB, view, face.VIEWER_PROB, tuple(face.SCALE), face.SHIFT, degradation
        )

    def draw(self, rng: np.random.Generator) -> Augmentation:
        """One augmentation."""
        flip = rng.random() < self.flip_prob
        photometry = (self.photometry, int(rng.integers(2**31)))
        # Nothing is drawn where it is off, so that a seed keeps giving its augmentations
        travels = self.viewer_prob > 0 and rng.random() < self.viewer_prob
        way = draw_way(rng) if travels else None
        degradation = None
        if self.degradation is not None:
            degradation = (self.degradation, int(rng.integers(2**31)))
        return Augmentation(
            flip=bool(flip),
            photometry=photometry,
            way=way,
            placement=self._placement(rng),
            degradation=degradation,
        )

    def _placement(self, rng: np.random.Generator) -> Placement:
        if self.scale == (1.0, 1.0) and not self.shift:
            return STRAIGHT
        right, down = rng.uniform(-self.shift, self.shift, 2)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        return Placement(float(scale), (float(right), float(down)))


@dataclass(frozen=True)
class DCLViews:
    """DCL's data views on top of ``base``; attributes are the keys of MODEL.FACE.DCL.VIEWS."""

    base: FaceAugmenter
    patch_prob: float
    patch_grid: int
    high_frequency_prob: float
    frame_shift_prob: float
    mixup_prob: float
    mixup_share: tuple[float, float]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DCLViews:
        """From MODEL.FACE.DCL.VIEWS and INPUT.FACE."""
        views = cfg.MODEL.FACE.DCL.VIEWS
        return cls(
            base=FaceAugmenter.from_config(cfg),
            patch_prob=views.PATCH_PROB,
            patch_grid=views.PATCH_GRID,
            high_frequency_prob=views.HIGH_FREQUENCY_PROB,
            frame_shift_prob=views.FRAME_SHIFT_PROB,
            mixup_prob=views.MIXUP_PROB,
            mixup_share=tuple(views.MIXUP_SHARE),
        )

    def draw(self, rng: np.random.Generator) -> Augmentation:
        """One view; the mixture is for fakes with a paired real alone."""
        base = self.base.draw(rng)
        patches = None
        if rng.random() < self.patch_prob:
            patches = tuple(int(patch) for patch in rng.permutation(self.patch_grid**2))
        high_frequency = bool(rng.random() < self.high_frequency_prob)
        mixup = None
        if rng.random() < self.mixup_prob:
            mixup = float(rng.uniform(*self.mixup_share))
        return Augmentation(
            flip=base.flip,
            photometry=base.photometry,
            way=base.way,
            high_frequency=high_frequency,
            grid=self.patch_grid,
            patches=patches,
            mixup=mixup,
            placement=base.placement,
            degradation=base.degradation,
        )

"""Self-blended images as samples: a real row makes a forged sample beside its own.

Rows of a manifest have boxes, no landmarks: the face is the ellipse of its box, with the usual
places of eyes, nose and mouth. Shape letters: S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode

from comics.data.faces.crops import square_window
from comics.data.faces.manifest import FaceRow
from comics.data.forgery.masks import describe_face
from comics.data.forgery.self_blended import BlendedPair, SelfBlending, self_blended_pair
from comics.structures import REAL

SELF_BLEND_METHOD = "self_blended_image"  # name of the forgery, where batches number methods


@dataclass(frozen=True)
class SelfBlendView:
    """Makes the blend of a real row's crop; attributes are keys of INPUT.FACE.SELF_BLEND.

    Attributes:
        ranges: of colour, geometry and blending.
        prob: share of the real rows that get a blend.
        face_share: width and height of the face, as a share of a crop without a box.
        margin: of crops, INPUT.FACE.MARGIN.

    Raises:
        ValueError: for a share out of range.
    """

    ranges: SelfBlending
    prob: float
    face_share: float
    margin: float

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"INPUT.FACE.SELF_BLEND.PROB must be in [0, 1], got {self.prob}")
        if not 0 < self.face_share <= 1:
            raise ValueError(
                f"INPUT.FACE.SELF_BLEND.FACE_SHARE must be in (0, 1], got {self.face_share}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SelfBlendView | None:
        """From INPUT.FACE.SELF_BLEND; None where it is off."""
        blend = cfg.INPUT.FACE.SELF_BLEND
        if not blend.ENABLED:
            return None
        ranges = SelfBlending(
            rgb_shift=blend.RGB_SHIFT,
            rgb_prob=blend.RGB_PROB,
            hue=blend.HUE,
            saturation=blend.SATURATION,
            value=blend.VALUE,
            brightness=blend.BRIGHTNESS,
            contrast=blend.CONTRAST,
            downscale=tuple(blend.DOWNSCALE),
            shift=tuple(blend.SHIFT),
            scale=blend.SCALE,
            ratios=tuple(blend.RATIOS),
            poisson_prob=blend.POISSON_PROB,
        )
        return cls(ranges, blend.PROB, blend.FACE_SHARE, cfg.INPUT.FACE.MARGIN)

    def __call__(
        self, crop: np.ndarray, row: FaceRow, rng: np.random.Generator
    ) -> BlendedPair | None:
        """Real and blend of a row's crop [S, S, 3] uint8; None for a forged row, or by chance."""
        if row.label != REAL or rng.random() >= self.prob:
            return None
        face = describe_face(crop, self._box(crop, row))
        return self_blended_pair(crop, face.mask, face.keypoints, rng, self.ranges)

    def _box(self, crop: np.ndarray, row: FaceRow) -> np.ndarray:
        """[4] the face in pixels of the crop."""
        side = crop.shape[0]
        if row.box is None:
            return side / 2 + side * self.face_share / 2 * np.array([-1.0, -1.0, 1.0, 1.0])
        left, top, right, _ = square_window(row.box, self.margin)
        return (np.array(row.box) - (left, top, left, top)) * (side / (right - left))

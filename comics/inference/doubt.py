"""When a verdict is "unclear", and why.

A face is unclear where its P(fake) lies too near the threshold, where it is too small or too
strongly compressed for traces of a forgery to survive, or where its pixels look unlike those that
the model was trained on. Each rule reads the picture and the verdict alone, and all runtimes share
it. ``comics.structures.DOUBTS`` names the reasons.

Shape letters: N faces; K entries of a descriptor; H, W height and width of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from comics.config import CfgNode
from comics.ops.crops import margin_window
from comics.ops.picture_statistics import DESCRIPTOR_NAMES, blockiness, describe_picture
from comics.structures import DOUBTS, Faces

FAMILIARITY_KEY = "familiarity"  # of a model file's metadata: what its training pictures look like
WINDOW_MARGIN = 0.15  # around a box, a share of its longer side: what is described
REASONS = {  # of DOUBTS, for people
    "near_threshold": "P(fake) is too close to the threshold",
    "small": "the face is too small to judge",
    "compressed": "the picture is too strongly compressed",
    "unfamiliar": "the picture looks unlike those the model was trained on",
}
BITS = {name: 1 << place for place, name in enumerate(DOUBTS)}


@dataclass(frozen=True)
class Familiarity:
    """The pictures that a model was trained on, as a Gaussian over ``describe_picture``.

    Attributes:
        mean: [K].
        precision: [K, K], inverse of the covariance.
        limit: a distance above it is unfamiliar.
    """

    mean: np.ndarray
    precision: np.ndarray
    limit: float

    def distance(self, descriptor: np.ndarray) -> float:
        """Mahalanobis distance of a descriptor [K], by the root of K: about 1 for what is usual."""
        offset = descriptor - self.mean
        return float(np.sqrt(max(0.0, offset @ self.precision @ offset) / len(offset)))

    def is_unfamiliar(self, picture: np.ndarray) -> bool:
        """Whether a picture [H, W, 3] uint8 RGB looks unlike those that were trained on."""
        return self.distance(describe_picture(picture)) > self.limit

    def to_text(self) -> str:
        """JSON, for a model file's metadata."""
        rows = [[float(f"{value:.6g}") for value in row] for row in self.precision]
        mean = [float(f"{value:.6g}") for value in self.mean]
        names = list(DESCRIPTOR_NAMES)
        return json.dumps({"names": names, "mean": mean, "precision": rows, "limit": self.limit})

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> Familiarity | None:
        """What a model file's metadata says; None if it says nothing.

        Raises:
            ValueError: naming the file ``path``, if what it says is unusable.
        """
        text = metadata.get(FAMILIARITY_KEY)
        if text is None:
            return None
        try:
            told = json.loads(text)
            mean = np.array(told["mean"], dtype=np.float64)
            precision = np.array(told["precision"], dtype=np.float64)
            limit = float(told["limit"])
            names = tuple(told["names"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: unusable metadata {FAMILIARITY_KEY!r}: {error!r}") from error
        count = len(DESCRIPTOR_NAMES)
        if names != DESCRIPTOR_NAMES or mean.shape != (count,) or precision.shape != (count, count):
            raise ValueError(f"{path}: metadata {FAMILIARITY_KEY!r} is of another version")
        if not (np.isfinite(mean).all() and np.isfinite(precision).all() and limit > 0):
            raise ValueError(f"{path}: metadata {FAMILIARITY_KEY!r} has values that are not finite")
        return cls(mean, precision, limit)


@dataclass(frozen=True)
class DoubtRule:
    """When a verdict is unclear.

    Attributes:
        below, above: P(fake) from ``fake_threshold - below`` up to, but without,
            ``fake_threshold + above`` is too near the threshold; both in [0, 1].
        min_side: pixels: a box whose shorter side is less is too small; 0: none is.
        max_blockiness: above it a face is too strongly compressed; 0: none is.
        familiarity: of the training pictures; None: not asked.

    Raises:
        ValueError: naming the value that is out of its range.
    """

    below: float = 0.0
    above: float = 0.0
    min_side: float = 0.0
    max_blockiness: float = 0.0
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        for name in ("below", "above"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.min_side < 0 or self.max_blockiness < 0:
            raise ValueError(
                f"min_side and max_blockiness must be 0 or more, got {self.min_side}, "
                f"{self.max_blockiness}"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, familiarity: Familiarity | None = None) -> DoubtRule:
        """The rule that ``cfg.TEST.UNCLEAR`` describes; the familiarity belongs to the weights."""
        unclear = cfg.TEST.UNCLEAR
        return cls(
            below=unclear.BELOW,
            above=unclear.ABOVE,
            min_side=unclear.MIN_SIDE,
            max_blockiness=unclear.MAX_BLOCKINESS,
            familiarity=familiarity,
        )

    def is_near(self, probability: float, fake_threshold: float) -> bool:
        """Whether a P(fake) lies too near the threshold."""
        return fake_threshold - self.below <= probability < fake_threshold + self.above

    def settings(self) -> dict[str, float | None]:
        """What results say of the rule; JSON."""
        return {
            "below": self.below,
            "above": self.above,
            "min_side": self.min_side,
            "max_blockiness": self.max_blockiness,
            "max_distance": None if self.familiarity is None else self.familiarity.limit,
        }


def with_doubts(faces: Faces, image: np.ndarray, rule: DoubtRule, fake_threshold: float) -> Faces:
    """The faces with ``doubts`` filled in.

    Args:
        faces: verdicts on ``image``, on the CPU, with ``fake_probability``.
        image: [H, W, 3] uint8 RGB, as it was given.
        rule: see ``DoubtRule``.
        fake_threshold: from which P(fake) on a face is called forged.
    """
    if faces.fake_probability is None:  # no face at all
        return replace(faces, doubts=torch.zeros(len(faces), dtype=torch.int64))
    bits = [
        _doubt(box, probability, image, rule, fake_threshold)
        for box, probability in zip(
            faces.boxes.tolist(), faces.fake_probability.tolist(), strict=True
        )
    ]
    return replace(faces, doubts=torch.tensor(bits, dtype=torch.int64))


def _doubt(
    box: list[float], probability: float, image: np.ndarray, rule: DoubtRule, fake_threshold: float
) -> int:
    bits = 0
    if rule.is_near(probability, fake_threshold):
        bits |= BITS["near_threshold"]
    if min(box[2] - box[0], box[3] - box[1]) < rule.min_side:
        bits |= BITS["small"]
    if not rule.max_blockiness and rule.familiarity is None:
        return bits
    window = face_window(image, box)
    if rule.max_blockiness:
        # In whole numbers, so that devices agree
        grey = (window.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)) // 1000
        if blockiness(grey) > rule.max_blockiness:
            bits |= BITS["compressed"]
    if rule.familiarity is not None and rule.familiarity.is_unfamiliar(window):
        bits |= BITS["unfamiliar"]
    return bits


def face_window(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of a picture [H, W, 3] that is described of a face at (x0, y0, x1, y1)."""
    left, top, right, bottom = margin_window(box, (image.shape[0], image.shape[1]), WINDOW_MARGIN)
    return image[top:bottom, left:right]

"""What a dense detector's quality branch learns at the locations that answer for a face.

The branch says how far its location can be trusted; its output multiplies the class score. A
detector with another idea of quality subclasses ``Quality`` and passes an object of it to FCOS's
loss (``FCOS.quality_from_config``); nothing of FCOS changes.

Shape letters: P locations of a batch that answer for a face; F faces of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from comics.ops.losses import centerness, distance_iou
from comics.structures import Faces


@dataclass(frozen=True)
class Positives:
    """The locations of a batch that answer for a face.

    Attributes:
        level, image, cell: [P] int64, see ``comics.modeling.detectors.cells``.
        face: [P] int64, position among the faces of the whole batch.
        points: [P, 2] (x, y) pixels that they stand for.
        strides: [P] float, pixels per cell of their level.
        predicted, wanted: [P, 4] distances to the sides of the box, in strides.
        level_sizes: how many of them each level has; they are in its order.
        faces: ground truth of each image.
    """

    level: Tensor
    image: Tensor
    cell: Tensor
    face: Tensor
    points: Tensor
    strides: Tensor
    predicted: Tensor
    wanted: Tensor
    level_sizes: Sequence[int]
    faces: Sequence[Faces]

    def __len__(self) -> int:
        return len(self.face)


class Quality:
    """What the branch learns.

    Attributes:
        short_name: of its loss, "loss_fcos_<short name>".
        weights_losses: whether box and mask losses are weighted by the targets.
    """

    short_name: str
    weights_losses: bool = True

    def target(self, positives: Positives) -> Tensor:
        """[P] float32 in [0, 1], without gradient."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sum over the positives: cross-entropy of logits [P] with targets [P]."""
        return functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="sum")


class Centerness(Quality):
    """How central a location is in its face's box (Tian et al. 2019, arXiv:1904.01355, eq. 3)."""

    short_name = "ctr"

    def target(self, positives: Positives) -> Tensor:
        """See ``Quality.target``."""
        return centerness(positives.wanted)


class BoxOverlap(Quality):
    """The IoU of the predicted box with the face's."""

    short_name = "iou"
    weights_losses = False

    def target(self, positives: Positives) -> Tensor:
        """See ``Quality.target``."""
        return distance_iou(positives.predicted, positives.wanted)[0].detach()


QUALITIES: dict[str, type[Quality]] = {"ctrness": Centerness, "iou": BoxOverlap}


def make_quality(name: str) -> Quality:
    """The quality that ``MODEL.FCOS.BOX_QUALITY`` names.

    Raises:
        ValueError: for another name, listing the choices.
    """
    if name not in QUALITIES:
        raise ValueError(f"MODEL.FCOS.BOX_QUALITY must be one of {tuple(QUALITIES)}, got {name!r}")
    return QUALITIES[name]()

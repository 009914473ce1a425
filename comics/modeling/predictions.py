"""What a detector predicts in the middle of a training step, without gradient and without trace.

The contrasts may learn from it: ``MODEL.COMICS.PROPOSAL.MATCH`` "any", ``PIXEL.MASKS`` "predicted".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from comics.modeling.detectors.base import Detector, ImageBatch, LevelBoxes
from comics.modeling.detectors.candidates import Candidates
from comics.ops.boxes import box_iou
from comics.structures import Faces


@contextmanager
def as_at_inference(module: nn.Module) -> Iterator[None]:
    """No gradients, and evaluation mode, so that no running mean counts the step twice."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def every_proposal(
    detector: Detector, features: dict[str, Tensor], batch: ImageBatch
) -> dict[str, LevelBoxes]:
    """``Detector.every_proposal``, as at inference.

    Raises:
        ValueError: if the detector does not tell.
    """
    try:
        with as_at_inference(detector):
            return detector.every_proposal(features, batch)
    except NotImplementedError:
        raise ValueError(
            f"{type(detector).__name__} does not give its proposals apart from those of faces "
            "(every_proposal): set MODEL.COMICS.PROPOSAL.MATCH iou or assigned"
        ) from None


def predicted_faces(
    detector: Detector,
    features: dict[str, Tensor],
    batch: ImageBatch,
    targets: Sequence[Faces],
    min_iou: float,
) -> list[Faces]:
    """The faces of ``targets`` that are detected, with the masks that the detector predicts.

    A face takes the mask of the detection, of either class, whose box overlaps it most.

    Args:
        detector: of masks.
        features: what its heads see.
        batch: the images.
        targets: ground truth of each image.
        min_iou: of the boxes; faces without such a detection are left out.

    Raises:
        ValueError: if the detector predicts no masks.
    """
    with as_at_inference(detector):
        found = detector.found(features, batch)
        return [
            _with_predicted_masks(faces, one, min_iou)
            for faces, one in zip(targets, found, strict=True)
        ]


def _with_predicted_masks(faces: Faces, found: Faces, min_iou: float) -> Faces:
    overlap = box_iou(faces.boxes, found.boxes.to(faces.boxes))
    if 0 in overlap.shape:
        nothing = torch.zeros((0, *faces.image_size), dtype=torch.bool, device=faces.boxes.device)
        return replace(faces[overlap.new_zeros(len(faces), dtype=torch.bool)], masks=nothing)
    iou, best = overlap.max(dim=1)
    usable = iou >= min_iou
    chosen = found[best[usable]]
    drawn = chosen.drawn(faces.image_size) if isinstance(chosen, Candidates) else chosen
    if drawn.masks is None:
        raise ValueError(
            "MODEL.COMICS.PIXEL.MASKS predicted needs a detector that predicts masks: set "
            "MODEL.MASK_ON True with such a detector, or MASKS ground_truth"
        )
    return replace(faces[usable], masks=drawn.masks)

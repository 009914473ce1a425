"""A detector, and a face method that looks again at every face it finds.

The two are trained apart and put together in one model: one file, one device, one forward pass of
the face method for all faces of all images at hand. It lives in ``modeling`` because it needs no
more than models and ``ops``, so ``build_model`` can build it like any other.

Shape letters: B images; N detections or faces of one image; M faces of all; H, W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod
from comics.ops.crops import BORDERS, crop_faces, square_windows, usable_boxes
from comics.ops.verdicts import (
    FUSIONS,
    fake_probability,
    fuse_probabilities,
    group_class_scores,
    merge_detections,
)
from comics.structures import Faces, NotFiniteError

FACE_FORENSICS = "FaceForensics"  # of MODEL.META_ARCHITECTURE
FACE_METHOD = "FaceMethod"  # the same, of a face method alone
PARTS = ("detector", "face")  # submodules


class FaceForensics(nn.Module):
    """Detector and face method on the same faces, for inference.

    Args:
        detector: finds faces; P(fake) of its own comes from its class scores.
        face: says P(fake) of a crop.
        fusion: how the two become one, see ``fuse_probabilities``.
        margin: of the crops, a share of a box's longer side, as the face method was trained with.
        border: what is outside the image, likewise: "replicate" or "reflect".
        mirror: the face method's logit is the mean over the crop and its mirror image.
        crop_grid: crops snap to a grid of such steps, see ``square_windows``; 0: whole pixels.
        crops_per_forward: at most so many faces go through the face method at once.
        merge_iou, missing_score: how detections of one place become one P(fake), see
            ``merge_detections`` and ``fake_probability``.

    Raises:
        ValueError: for an unknown fusion or border, fewer than one crop per forward pass, or a grid
            outside [0, 1).
    """

    detector_temperature: Tensor
    face_temperature: Tensor

    def __init__(
        self,
        detector: nn.Module,
        face: FaceMethod,
        *,
        fusion: str = "mean_logit",
        margin: float = 0.15,
        border: str = "replicate",
        mirror: bool = False,
        crop_grid: float = 0.0,
        crops_per_forward: int = 64,
        merge_iou: float = 0.5,
        missing_score: float = 0.05,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS or border not in BORDERS or crops_per_forward < 1:
            raise ValueError(
                f"MODEL.FACE.FUSION {fusion!r} must be one of {FUSIONS}, INPUT.FACE.BORDER "
                f"{border!r} one of {BORDERS}, MODEL.FACE.CROPS_PER_FORWARD {crops_per_forward} "
                "1 or more"
            )
        if not 0 <= crop_grid < 1:
            raise ValueError(f"MODEL.FACE.CROP_GRID must be in [0, 1), got {crop_grid}")
        self.detector = detector
        self.face = face
        self.fusion = fusion
        self.margin = margin
        self.border = border
        self.mirror = mirror
        self.crop_grid = crop_grid
        self.crops_per_forward = crops_per_forward
        self.merge_iou = merge_iou
        self.missing_score = missing_score
        for part in PARTS:  # each divides the logit of its part's P(fake)
            self.register_buffer(temperature_name(part), torch.ones(()))

    @classmethod
    def from_config(cls, cfg: CfgNode, detector: nn.Module, face: FaceMethod) -> FaceForensics:
        """From ``MODEL.FACE``, ``INPUT.FACE`` and ``TEST``."""
        return cls(
            detector,
            face,
            fusion=cfg.MODEL.FACE.FUSION,
            margin=cfg.INPUT.FACE.MARGIN,
            border=cfg.INPUT.FACE.BORDER,
            mirror=cfg.MODEL.FACE.MIRROR,
            crop_grid=cfg.MODEL.FACE.CROP_GRID,
            crops_per_forward=cfg.MODEL.FACE.CROPS_PER_FORWARD,
            merge_iou=cfg.TEST.MERGE_IOU,
            missing_score=cfg.TEST.MISSING_SCORE,
        )

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Faces] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Faces]:
        """The detector's detections, as it scores them, each with the fused P(fake) of its place.

        Precision of classes (AP) is therefore the detector's; what is said of faces (AUC, ...) is
        that of both. Crops are cut from ``images`` as given here.

        Args:
            images: RGB, 0-255, [3, H_i, W_i] each.
            targets: not used.
            output_sizes: (height, width) to express detections in; default: each image's own.

        Raises:
            RuntimeError: in training mode.
            NotFiniteError: where a part says what is not finite.
        """
        if self.training:
            raise RuntimeError(
                f"{FACE_FORENSICS} is not trained as a whole: train the detector and the face "
                "method, then join them by tools/combine_weights.py"
            )
        found = self.detector(images, output_sizes=output_sizes)
        grouped = [merge_detections(f.boxes, f.scores, self.merge_iou) for f in found]
        places = []
        for faces, groups, image in zip(found, grouped, images, strict=True):
            leaders = faces.boxes[[group[0] for group in groups]]
            scale = [image.shape[2] / faces.image_size[1], image.shape[1] / faces.image_size[0]]
            places.append(leaders * leaders.new_tensor(scale * 2))
        said = self.face_probability(images, places)
        return [self._with_probability(*one) for one in zip(found, grouped, said, strict=True)]

    def _with_probability(self, faces: Faces, groups: list[list[int]], said: Tensor) -> Faces:
        assert faces.scores is not None  # the detector's
        scores = group_class_scores(faces.labels, faces.scores, groups)
        own = fake_probability(scores, self.missing_score, self.detector_temperature.item())
        fused = fuse_probabilities(own, said.to(own), self.fusion)
        probability = torch.zeros_like(faces.scores)
        for group, value in zip(groups, fused, strict=True):
            probability[group] = value
        return replace(faces, fake_probability=probability)

    def crops(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """[M, 3, S, S] float32 crops of the boxes of each image, in that order.

        Args:
            images: RGB, 0-255, [3, H_i, W_i] each, uint8 or float, on this model's device.
            boxes: [N_i, 4] each, pixels of that image.
        """
        size, margin, border = self.face.crop_size, self.margin, self.border
        parts = [
            crop_faces(image, place.to(image.device), size, margin, border, self.crop_grid)
            for image, place in zip(images, boxes, strict=True)
        ]
        return torch.cat(parts) if parts else self.face.pixel_mean.new_zeros(0, 3, size, size)

    def windows(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """[N, 4] int64 (left, top, right, bottom) that crops of boxes [N, 4] show of an image.

        Args:
            boxes: in pixels of it.
            image_size: (H, W).
        """
        return square_windows(usable_boxes(boxes, image_size), self.margin, self.crop_grid)

    def face_probability(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """The face method's P(fake) of every box: [N_i] float32 in [0, 1] for each image.

        All faces of all images go through the method together, ``crops_per_forward`` at a time.

        Args:
            images, boxes: as ``crops``.

        Raises:
            NotFiniteError: for what is no number.
        """
        counts = [len(place) for place in boxes]
        # An image stands for each of its boxes, so that crops are cut as their turn comes
        owners = [position for position, count in enumerate(counts) for _ in range(count)]
        rows = torch.cat(list(boxes)) if counts else torch.zeros(0, 4)
        logits = [self.face.pixel_mean.new_zeros(0)]
        for start in range(0, len(owners), self.crops_per_forward):
            chunk = owners[start : start + self.crops_per_forward]
            own = rows[start : start + self.crops_per_forward]
            used = sorted(set(chunk))
            shares = own.split([chunk.count(position) for position in used])
            logits.append(self._crop_logits(self.crops([images[i] for i in used], shares)))
        probability = torch.sigmoid(torch.cat(logits) / self.face_temperature)
        if probability.isnan().any():
            raise NotFiniteError("what the face method says is not a finite number (NaN)")
        return list(probability.split(counts))

    def _crop_logits(self, crops: Tensor) -> Tensor:
        if not self.mirror:
            return self.face(crops)
        return self.face(torch.cat([crops, crops.flip(-1)])).view(2, -1).mean(0)


def temperature_name(part: str) -> str:
    """Name of the buffer that holds a part's calibration temperature."""
    return f"{part}_temperature"

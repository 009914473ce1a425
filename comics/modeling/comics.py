"""COMICS around any detector: frequency attention, and two contrastive losses while training.

``Comics`` speaks the detector's contract (``detectors.base``) and knows no detector. At inference
it costs the frequency attention and nothing else: key encoder, projections and banks exist only
after ``prepare_training``. docs/methods.md#comics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.contrast import PixelContrast, ProposalContrast
from comics.modeling.detectors.base import Detector, ImageBatch, TrainingOutput, check_targets
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.frequency import FrequencyAttention
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.modeling.momentum import MomentumEncoder
from comics.modeling.predictions import every_proposal, predicted_faces
from comics.structures import Faces


class Comics(TrainingLifeCycle):
    """A detector with the COMICS additions, each of which may be None.

    Banks and key encoder are equal on all processes without DDP's help:
    ``broadcast_buffers=False`` saves sending them every step.

    Args:
        detector: any that follows the contract; its key encoder is a copy of ``backbone``.
        frequency: the attention applied to its pyramid.
        proposal_contrast: makes the coarse-grained contrast when training is prepared, so that
            a model for inference never holds its parameters and banks.
        pixel_contrast: the fine-grained contrast.
        proposal_weight, intra_weight, inter_weight: lambda 1, 2, 3.
        key_momentum: beta of the key encoder.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        frequency: FrequencyAttention | None = None,
        proposal_contrast: Callable[[], ProposalContrast] | None = None,
        pixel_contrast: PixelContrast | None = None,
        proposal_weight: float = 0.5,
        intra_weight: float = 0.1,
        inter_weight: float = 0.1,
        key_momentum: float = 0.999,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.frequency = frequency
        self.pixel_contrast = pixel_contrast
        self.proposal_weight = proposal_weight
        self.intra_weight = intra_weight
        self.inter_weight = inter_weight
        self.key_momentum = key_momentum
        self._make_proposal_contrast = proposal_contrast
        self.reserve_training_only()

    @classmethod
    def from_config(cls, cfg: CfgNode, detector: Detector) -> Self:
        """From ``MODEL.COMICS``; with ``INPUT.VIEWS`` it spans the rows of Table IV."""
        comics = cfg.MODEL.COMICS
        contrast = partial(ProposalContrast, **ProposalContrast.settings(cfg))
        return cls(
            detector,
            frequency=FrequencyAttention.from_config(cfg) if comics.FEA.ENABLED else None,
            proposal_contrast=contrast if comics.PROPOSAL.ENABLED else None,
            pixel_contrast=PixelContrast.from_config(cfg) if comics.PIXEL.ENABLED else None,
            proposal_weight=comics.PROPOSAL.WEIGHT,
            intra_weight=comics.PIXEL.INTRA_WEIGHT,
            inter_weight=comics.PIXEL.INTER_WEIGHT,
            key_momentum=comics.KEY_MOMENTUM,
        )

    @property
    def needs_key_images(self) -> bool:
        """Whether training needs the second view."""
        return self._make_proposal_contrast is not None

    def training_modules(self) -> dict[str, nn.Module]:
        """Projections, banks and the key encoder; nothing without the coarse-grained contrast."""
        if self._make_proposal_contrast is None:
            return {}
        contrast = self._make_proposal_contrast().to(self.detector.pixel_mean.device)
        key_encoder = MomentumEncoder(self._encoder(contrast), self.key_momentum)
        return {"contrast": contrast, "key_encoder": key_encoder}

    def after_optimizer_step(self) -> None:
        """Move the key encoder towards the model, once per optimiser step (eq. 1); count it.

        A step of its own, because with gradient accumulation several forward passes make one
        optimiser step.
        """
        if self.training_only is not None:
            contrast = self.training_part("contrast")
            self.training_part("key_encoder").update(self._encoder(contrast))
            contrast.after_optimizer_step()

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Faces] | None = None,
        key_images: Sequence[Tensor] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> TrainingOutput | list[Faces]:
        """As ``Detector.forward``, with the losses of the additions.

        Args:
            images: RGB, 0-255, [3, H_i, W_i] each: view q.
            targets: ground truth of both views; needed in training mode.
            key_images: view k, of the same sizes; needed for the coarse-grained contrast.
            output_sizes: (height, width) to express detections in; default: each image's own.

        Returns:
            Training mode: the detector's output, plus ``loss_proposal_contrast``,
            ``loss_pixel_intra`` and ``loss_pixel_inter`` (weighted), and metrics: those of
            ``ProposalContrast``, and "pixel_faces", the faces with both regions.
            Evaluation mode: one ``Faces`` per image.

        Raises:
            ValueError: as the detector; for missing or misshapen ``key_images``.
            RuntimeError: when training the coarse-grained contrast before ``prepare_training``.
        """
        batch = self.detector.preprocess(images)
        if not self.training:
            features = self._features(images, batch)
            return self.detector.infer(features, batch, output_sizes or batch.sizes)
        faces = check_targets(targets, batch.sizes)
        key_view = None
        if self.needs_key_images:
            key_view = self._check_key_view(key_images, batch.sizes)
        features = self._features(images, batch)
        output = self.detector.training_output(features, batch, faces)
        losses, metrics = dict(output.losses), dict(output.metrics)
        if key_view is not None:
            loss, reported = self._proposal_loss(output, batch, key_view, faces)
            losses["loss_proposal_contrast"] = self.proposal_weight * loss
            metrics.update(reported)
        if self.pixel_contrast is not None:
            intra, inter, count = self._pixel_losses(self.pixel_contrast, output, batch, faces)
            metrics["pixel_faces"] = count  # 0 explains a loss of 0
            losses["loss_pixel_intra"] = self.intra_weight * intra
            losses["loss_pixel_inter"] = self.inter_weight * inter
        return replace(output, losses=losses, metrics=metrics)

    def candidates(self, images: Sequence[Tensor]) -> list[Candidates]:
        """As ``Detector.candidates``."""
        batch = self.detector.preprocess(images)
        dense = self.detector.dense(self._features(images, batch))
        return self.detector.checked_select(dense, batch.sizes)

    def _features(self, images: Sequence[Tensor], batch: ImageBatch) -> dict[str, Tensor]:
        """The detector's pyramid, after the frequency attention."""
        features = self.detector.extract_features(batch)
        if self.frequency is None:
            return features
        height, width = batch.tensor.shape[-2:]
        return self.frequency(features, images, (height, width))

    def _proposal_loss(
        self,
        output: TrainingOutput,
        batch: ImageBatch,
        key_images: Sequence[Tensor],
        targets: Sequence[Faces],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        key = self.training_part("key_encoder").encoder
        with torch.no_grad():
            key_batch = self.detector.preprocess(key_images)
            features = key["backbone"](key_batch.tensor)
            if self.frequency is not None:
                size = tuple(key_batch.tensor.shape[-2:])
                features = key["frequency"](features, key_images, size)
        contrast = self.training_part("contrast")
        every = []
        if contrast.needs_every_proposal:  # of the one proposal generator
            views = ((output.features, batch), (features, key_batch))
            every = [every_proposal(self.detector, *view) for view in views]
        return contrast(
            output.features, features, key["projections"], output.proposals, targets, every
        )

    def _pixel_losses(
        self,
        contrast: PixelContrast,
        output: TrainingOutput,
        batch: ImageBatch,
        targets: Sequence[Faces],
    ) -> tuple[Tensor, Tensor, Tensor]:
        if output.mask_features is None:
            raise ValueError(
                f"{type(self.detector).__name__} gives no mask features: set MODEL.MASK_ON True "
                "with a detector of masks, or MODEL.COMICS.PIXEL.ENABLED False"
            )
        if contrast.predicts_masks:
            targets = predicted_faces(
                self.detector, output.features, batch, targets, contrast.predicted_iou
            )
        regions = contrast.regions(targets)
        features = self.detector.roi_mask_features(output, regions.boxes, contrast.size)
        intra, inter = contrast(features, regions)
        return intra, inter, intra.new_full((), float(len(regions.labels)))

    def _encoder(self, contrast: ProposalContrast) -> nn.ModuleDict:
        """What the key encoder copies; shares the modules, registers nothing on this model."""
        encoder = {"backbone": self.detector.backbone, "projections": contrast.projections}
        if self.frequency is not None:
            encoder["frequency"] = self.frequency
        return nn.ModuleDict(encoder)

    def _check_key_view(
        self, key_images: Sequence[Tensor] | None, sizes: Sequence[tuple[int, int]]
    ) -> Sequence[Tensor]:
        self.require_prepared()
        if key_images is None:
            raise ValueError(
                "the proposal contrast needs a second view of each image (key_images): set "
                "INPUT.VIEWS.ENABLED or pass the images themselves, or switch it off with "
                "MODEL.COMICS.PROPOSAL.ENABLED False"
            )
        given = [tuple(image.shape[-2:]) for image in key_images]
        if given != [tuple(size) for size in sizes]:
            raise ValueError(f"key_images must have the sizes of images, {sizes}, got {given}")
        return key_images

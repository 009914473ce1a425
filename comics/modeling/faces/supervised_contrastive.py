"""Supervised contrastive learning, then a linear classifier.

The baseline of docs/papers.md#realcentric.

RealCentric is this with features added to the loss. Shape letters: B samples; V of them with a
positive view; Q = B + V embeddings; N crops; C channels; h, w of the map; D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision, two_layers
from comics.ops.contrastive import mean_or_zero, supervised_contrastive, zero_of
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch


@FACE_METHODS.register()
class SupervisedContrastive(FaceMethod):
    """Two stages in one run ("Sup. Con" of RealCentric, Tables 2 and 5).

    Stage 1, epochs 0 .. ``stage1_epochs`` - 1: encoder and projector learn by the contrastive
    loss; the classifier is not used and gets no gradient. Stage 2, from then on: the projector is
    not used, the encoder is frozen and in evaluation mode (its batch statistics stand still), and
    the classifier learns by cross-entropy.

    Nothing is rebuilt between them. All parameters enter the optimiser; those that a stage does
    not use have no gradient (``None``, not zero), and PyTorch's optimisers skip such parameters
    altogether: neither momentum nor weight decay moves them. ``zero_grad(set_to_none=True)``,
    PyTorch's default, is therefore needed; for several processes DDP's ``find_unused_parameters``.
    Build both before a start_epoch of stage 2, also when resuming: it freezes the encoder.

    Args:
        dim: D of the projector.
        hidden_dim: between its two layers.
        temperature: tau.
        stage1_epochs: length of stage 1.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    views: tuple[str, ...] = ("positive",)
    skips_parameters = True  # the first stage has no classifier
    crop_size = 299

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: int,
        hidden_dim: int,
        temperature: float,
        stage1_epochs: int,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        self.stage1_epochs = stage1_epochs
        self.classifier = nn.Linear(encoder.num_features, 1)

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.FACE`` and ``MODEL.FACE.REAL_CENTRIC``."""
        keys = cfg.MODEL.FACE.REAL_CENTRIC
        return {
            **FaceMethod.settings(cfg),
            "dim": keys.DIM,
            "hidden_dim": keys.HIDDEN_DIM,
            "temperature": keys.TEMPERATURE,
            "stage1_epochs": keys.STAGE1_EPOCHS,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SupervisedContrastive:
        """From ``MODEL.FACE.REAL_CENTRIC``: all else equal, so that the two can be compared."""
        return cls(**cls.settings(cfg))

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]; of no use before stage 2 has trained the classifier."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def training_modules(self) -> dict[str, nn.Module]:
        """The projector."""
        return {"projector": two_layers(self.encoder.num_features, self.hidden_dim, self.dim)}

    @property
    def in_stage_two(self) -> bool:
        """Whether the encoder is frozen and the classifier learns."""
        return self.training_only is not None and self.epoch >= self.stage1_epochs

    @property
    def may_be_best(self) -> bool:
        """Not before stage 2: the classifier is random until then."""
        return self.in_stage_two

    def start_epoch(self, epoch: int) -> None:
        """As ``FaceMethod``; switches the stage."""
        super().start_epoch(epoch)
        self._set_stage()

    def train(self, mode: bool = True) -> SupervisedContrastive:
        """As ``nn.Module``, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.in_stage_two:
            self.encoder.eval()
        return self

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Stage 1: ``loss_contrastive``. Stage 2: ``loss_ce``."""
        self._set_stage()  # again, because a checkpoint may have been loaded since
        if self.in_stage_two:
            with torch.no_grad():
                feature_map = self.feature_map(batch.images)
            logits = self.map_logits(feature_map)
            return FaceTrainingOutput({"loss_ce": binary_cross_entropy(logits, batch.labels)})
        valid = batch.valid["positive"]
        images = torch.cat([batch.images, batch.views["positive"][valid]])
        labels = torch.cat([batch.labels, batch.labels[valid]])
        pooled = self.encoder.pool(self.feature_map(images))
        embeddings = self.training_part("projector")(pooled)
        with full_precision(embeddings):
            loss = self.contrastive_loss(unit(embeddings), labels)
        return FaceTrainingOutput({"loss_contrastive": loss})

    def contrastive_loss(self, z: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of unit embeddings [Q, D] with labels [Q]."""
        return margin_loss(z, labels, self.temperature)

    def _set_stage(self) -> None:
        frozen = self.in_stage_two
        for module in (self.encoder, self.training_part("projector")):
            module.requires_grad_(not frozen)
            if frozen:
                module.zero_grad(set_to_none=True)
        if frozen:
            self.encoder.eval()


def margin_loss(
    z: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    extra: Tensor | None = None,
    extra_labels: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """Supervised contrastive loss of a batch, with synthesised features (eq. 4 and 5).

    Every embedding of the batch is a query; its positives are all others of its class, ``extra``
    ones included; its denominator runs over all others and ``extra``, and over ``negatives``.
    Mean over the queries that have a positive; a connected 0 if none has.

    Args:
        z: [Q, D] unit vectors.
        labels: [Q] int64.
        extra: [E, D] unit vectors that join the batch as candidates, not as queries.
        extra_labels: [E] int64.
        negatives: [K, D] unit vectors that are nobody's positive.
    """
    candidates, candidate_labels = z, labels
    if extra is not None:
        assert extra_labels is not None  # goes with extra
        candidates = torch.cat([z, extra])
        candidate_labels = torch.cat([labels, extra_labels])
    others = torch.ones(len(z), len(candidates), dtype=torch.bool, device=z.device)
    others[:, : len(z)].fill_diagonal_(False)
    positives = others & (labels[:, None] == candidate_labels[None])
    repelling = None if negatives is None else z @ negatives.T
    loss, usable = supervised_contrastive(
        z @ candidates.T, positives, others, temperature, repelling
    )
    return mean_or_zero(loss[usable]) + zero_of(z)

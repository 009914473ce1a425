"""CompressionRelation: docs/methods.md#compressionrelation.

A strongly compressed frame shall relate to other frames as its weakly compressed twin does.
Shape letters: B samples; V of them with some view; M rows of the banks; D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.bank import RingBuffer, gather_rows
from comics.modeling.faces.base import FaceTrainingOutput
from comics.modeling.faces.embedding import EmbeddingMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.modeling.momentum import MomentumEncoder
from comics.ops.contrastive import info_nce, mean_or_zero, soft_cross_entropy, zero_of
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import CLASS_NAMES, FAKE, REAL, FaceBatch

TEST_CHOICES = ("momentum", "query")
MOMENTUM = "momentum"  # F' and g' among the training-only modules


def relation_loss(
    weak: Tensor, strong: Tensor, bank: Tensor, weak_temperature: float, strong_temperature: float
) -> Tensor:
    """Mean of ``-sum_m p^w_m log p^s_m`` over pairs (eq. 2-4).

    ``p = softmax(z . bank / temperature)``; p^w passes no gradient. An exact, connected 0 without
    pairs or with an empty bank.

    Args:
        weak, strong: [V, D] unit embeddings of the same frames.
        bank: [M, D] unit embeddings of both classes.
    """
    if len(strong) == 0 or len(bank) == 0:
        return zero_of(strong)
    target = weak @ bank.T / weak_temperature
    return soft_cross_entropy(target, strong @ bank.T / strong_temperature).mean()


def video_contrast_loss(
    query: Tensor, key: Tensor, labels: Tensor, banks: Sequence[Tensor], temperature: float
) -> Tensor:
    """InfoNCE of a frame with another of its video; the other class's bank repels (eq. 5).

    The mean over reals plus the mean over fakes (Algorithm 1).

    Args:
        query, key: [V, D] unit embeddings.
        labels: [V] int64.
        banks: the keys of reals, and of fakes: [M_c, D] each.
    """
    total = zero_of(query)
    for label in (REAL, FAKE):
        own = labels == label
        positive = (query[own] * key[own]).sum(dim=1)
        negative = query[own] @ banks[1 - label].T
        total = total + mean_or_zero(info_nce(positive, negative, temperature))
    return total


def warmed_momentum(momentum: float, step: int) -> float:
    """``min(momentum, (1 + step) / (10 + step))`` after ``step`` steps.

    An average then looks back on about a tenth of the steps so far, never on more than
    ``1 / (1 - momentum)``: with 0.999 alone, F' of a run of 300 steps is three quarters of what F
    was before it (docs/methods.md#compressionrelation-momentum, decision).
    """
    return min(momentum, (1 + step) / (10 + step))


@FACE_METHODS.register()
class CompressionRelation(EmbeddingMethod):
    """CompressionRelation; ``images`` are the weakly compressed frames.

    Views: "strong", the same frame and crop box under strong compression; "other", another
    weakly compressed frame of the same video. At inference F', g' and Y predict: a model file
    holds F' and g' in the place of F and g.

    Args:
        relation, contrast: switches of the two losses (Table 3).
        key_momentum: of F' and g'.
        momentum_warmup: whether it starts with less, ``warmed_momentum``.
        test_with: "momentum", or "query" for F and g.
        bank_size: embeddings per class (Table 4).
        weak_temperature, strong_temperature, contrast_temperature: tau.
        beta: weights of relation and contrast, after ``warmup_steps`` optimiser steps.
        warmup_beta: the same before.
        warmup_steps: 0 = none.
        encoder: see ``EmbeddingMethod``, as further keyword arguments.

    Raises:
        ValueError: for an unknown ``test_with``.
    """

    views: tuple[str, ...] = ("strong", "other")

    def __init__(
        self,
        encoder: Encoder,
        *,
        relation: bool,
        contrast: bool,
        key_momentum: float,
        momentum_warmup: bool,
        test_with: str,
        bank_size: int,
        weak_temperature: float,
        strong_temperature: float,
        contrast_temperature: float,
        beta: Sequence[float],
        warmup_beta: Sequence[float],
        warmup_steps: int,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        if test_with not in TEST_CHOICES:
            raise ValueError(f"TEST_WITH must be one of {TEST_CHOICES}, got {test_with!r}")
        self.relation = relation
        self.contrast = contrast
        self.key_momentum = key_momentum
        self.momentum_warmup = momentum_warmup
        self.tests_with_momentum = test_with == "momentum"
        self.bank_size = bank_size
        self.temperatures = (weak_temperature, strong_temperature)
        self.contrast_temperature = contrast_temperature
        self.beta = tuple(beta)
        self.warmup_beta = tuple(warmup_beta)
        self.warmup_steps = warmup_steps
        self.uses_banks = relation or contrast
        self.views = type(self).views if self.uses_banks else ("strong",)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CompressionRelation:
        """From ``MODEL.FACE.COMPRESSION_RELATION`` and ``.EMBEDDING``."""
        keys = cfg.MODEL.FACE.COMPRESSION_RELATION
        return cls(
            **cls.settings(cfg),
            relation=keys.RELATION,
            contrast=keys.CONTRAST,
            key_momentum=keys.KEY_MOMENTUM,
            momentum_warmup=keys.MOMENTUM_WARMUP,
            test_with=keys.TEST_WITH,
            bank_size=keys.BANK_SIZE,
            weak_temperature=keys.WEAK_TEMPERATURE,
            strong_temperature=keys.STRONG_TEMPERATURE,
            contrast_temperature=keys.CONTRAST_TEMPERATURE,
            beta=keys.BETA,
            warmup_beta=keys.WARMUP_BETA,
            warmup_steps=keys.WARMUP_STEPS,
        )

    # -- inference ----------------------------------------------------------------------------

    def feature_map(self, crops: Tensor) -> Tensor:
        """As ``FaceMethod``; in evaluation mode of F', once training is prepared."""
        encoder = self._momentum_at_test(0) or self.encoder
        return encoder.forward_map(self.preprocess(crops))

    def map_embeddings(self, feature_map: Tensor) -> Tensor:
        """z [N, D]; in evaluation mode of g', once training is prepared."""
        projector = self._momentum_at_test(1) or self.projector
        return projector(self.encoder.pool(feature_map))

    def inference_state_dict(self) -> dict[str, Tensor]:
        """As ``FaceMethod``, F' and g' under the names of F and g."""
        state = super().inference_state_dict()
        if self.training_only is None or not self.tests_with_momentum:
            return state
        momentum = self.training_part(MOMENTUM).encoder
        for name, module in (("encoder", momentum[0]), ("projector", momentum[1])):
            state.update({f"{name}.{k}": v for k, v in module.state_dict().items()})
        return state

    def _momentum_at_test(self, position: int) -> Any:
        if self.training or self.training_only is None or not self.tests_with_momentum:
            return None
        return self.training_part(MOMENTUM).encoder[position]

    # -- training -----------------------------------------------------------------------------

    def training_modules(self) -> dict[str, nn.Module]:
        """F' and g', and a bank per class, where they are used."""
        modules: dict[str, nn.Module] = {}
        if self.uses_banks or self.tests_with_momentum:
            modules[MOMENTUM] = MomentumEncoder(self._query_network(), self.key_momentum)
        if self.uses_banks:
            banks = [RingBuffer(self.bank_size, self.dim) for _ in CLASS_NAMES]
            modules["banks"] = nn.ModuleList(banks)
        return modules

    def after_optimizer_step(self) -> None:
        """As ``FaceMethod``; F' and g' follow F and g (eq. 8 and 9)."""
        super().after_optimizer_step()
        if self.training_only is None or MOMENTUM not in self.training_only:
            return
        momentum = self.key_momentum
        if self.momentum_warmup:
            momentum = warmed_momentum(momentum, self.step)
        self.training_part(MOMENTUM).update(self._query_network(), momentum)

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of both levels, relation and contrastive losses; the banks take z'_w."""
        weak, strong, valid = self.embed_levels(batch)
        labels = torch.cat([batch.labels, batch.labels[valid]])
        losses = {"loss_ce": binary_cross_entropy(self.predict(torch.cat([weak, strong])), labels)}
        if self.uses_banks:
            with full_precision(weak):
                losses.update(self._bank_losses(batch, unit(weak), unit(strong), valid))
        return FaceTrainingOutput(losses)

    def _bank_losses(
        self, batch: FaceBatch, weak: Tensor, strong: Tensor, has_strong: Tensor
    ) -> dict[str, Tensor]:
        has_other = batch.valid["other"]
        labels = batch.labels[has_other]
        keys = self._keys(batch.views["other"][has_other])
        banks = [bank.rows() for bank in self.training_part("banks")]
        betas = self.warmup_beta if self.step < self.warmup_steps else self.beta
        losses = {}
        if self.relation:
            loss = relation_loss(weak[has_strong], strong, torch.cat(banks), *self.temperatures)
            losses["loss_relation"] = betas[0] * loss
        if self.contrast:
            query, temperature = weak[has_other], self.contrast_temperature
            loss = video_contrast_loss(query, keys, labels, banks, temperature)
            losses["loss_contrast"] = betas[1] * loss
        gathered, gathered_labels = gather_rows(keys, labels)
        for label, bank in enumerate(self.training_part("banks")):
            bank.push(gathered[gathered_labels == label])
        return losses

    def _keys(self, crops: Tensor) -> Tensor:
        if len(crops) == 0:
            return self.pixel_mean.new_zeros(0, self.dim)
        return unit(self.training_part(MOMENTUM)(self.preprocess(crops)))

    def _query_network(self) -> nn.Sequential:
        """F and g, shared with this model: what F' and g' copy."""
        return nn.Sequential(self.encoder, self.projector)

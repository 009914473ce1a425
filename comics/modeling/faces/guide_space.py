"""GuideSpace, the controllable guide-space method: docs/methods.md#guidespace.

Shape letters: B samples; N crops; C channels, the dimensions of a feature; h, w of the map;
n forgery domains; M rows of the feature bank F.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.bank import gather_rows
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.domains import forgery_domains
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.feature_bank import FeatureBank, LabelledFeatures
from comics.modeling.faces.guide_losses import (
    draw_columns,
    guide_loss,
    log_probabilities,
    pull_loss,
    push_loss,
    sample_weights,
)
from comics.modeling.faces.guides import guide_embeddings, match_domains
from comics.modeling.faces.layers import full_precision
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch

CLASSIFIER_INPUTS = ("pooled", "unit")
UNKNOWN_CLUSTER = -1


class Guides(nn.Module):
    """The guide embeddings, and a moving mean of each forgery domain for batches without it.

    Args:
        embeddings: [1 + n, C]; row 0 is the real guide.
        momentum: share of the old mean in the new one.
    """

    embeddings: Tensor
    means: Tensor
    known: Tensor

    def __init__(self, embeddings: Tensor, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("means", torch.zeros_like(embeddings[1:]))
        self.register_buffer("known", torch.zeros(len(embeddings) - 1, dtype=torch.bool))

    @torch.no_grad()
    def assign(self, features: Tensor, domains: Tensor) -> Tensor:
        """Row of ``embeddings`` for each domain: [1 + n] int64, entry 0 is 0.

        Domains of the batch are matched by their mean feature, others by their moving mean.

        Args:
            features: [B, C] unit vectors of all processes.
            domains: [B] int64.
        """
        current = self.means.clone()
        for domain in range(1, len(self.embeddings)):
            members = features[domains == domain].float()
            if len(members) == 0:
                continue
            mean, position = members.mean(dim=0), domain - 1
            current[position] = mean
            old = self.means[position] if self.known[position] else mean
            self.means[position] = self.momentum * old + (1 - self.momentum) * mean
            self.known[position] = True
        matched = match_domains(current, self.known, self.embeddings[1:])
        return torch.cat([matched.new_zeros(1), matched + 1])


@FACE_METHODS.register()
class GuideSpace(FaceMethod):
    """Features are drawn to guides that keep forgery domains apart, and all far from real.

    Every fake's forgery method must be known; where a content cluster is unknown (-1), that
    sample takes no part in pushing and pulling.

    Args:
        num_domains: n.
        angle: theta, degrees.
        seed: orientation of the guides.
        temperature: tau.
        domain_momentum: of the domains' moving means.
        bank_size: rows of F.
        guide_weight, ce_weight, push_weight, pull_weight: lambda 1-4; 0 leaves a term out
            (Table 3).
        adjust: A-DBM, from epoch ``adjust_epoch`` on; else all samples weigh the same.
        neighbours: k.
        other_fake_weight: alpha between two forgery methods.
        set_size: rows of F drawn to push, and to pull, per sample.
        classifier_input: "pooled": the feature before normalisation (decision: a linear layer on
            unit vectors starts with logits near 0); "unit".
        encoder: see ``FaceMethod``, as further keyword arguments.

    Raises:
        ValueError: for an unknown ``classifier_input``.
    """

    needs_methods = True
    needs_clusters = True
    crop_size = 299

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_domains: int,
        angle: float,
        seed: int,
        temperature: float,
        domain_momentum: float,
        bank_size: int,
        guide_weight: float,
        ce_weight: float,
        push_weight: float,
        pull_weight: float,
        adjust: bool,
        adjust_epoch: int,
        neighbours: int,
        other_fake_weight: float,
        set_size: int,
        classifier_input: str,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        if classifier_input not in CLASSIFIER_INPUTS:
            raise ValueError(
                f"GUIDE_SPACE.CLASSIFIER_INPUT must be one of {CLASSIFIER_INPUTS}, "
                f"got {classifier_input!r}"
            )
        self.num_domains = num_domains
        self.angle = angle
        self.seed = seed
        self.temperature = temperature
        self.domain_momentum = domain_momentum
        self.bank_size = bank_size
        self.guide_weight = guide_weight
        self.ce_weight = ce_weight
        self.push_weight = push_weight
        self.pull_weight = pull_weight
        self.adjust = adjust
        self.adjust_epoch = adjust_epoch
        self.neighbours = neighbours
        self.other_fake_weight = other_fake_weight
        self.set_size = set_size
        self.classifier_input = classifier_input
        self.needs_clusters = push_weight > 0 or pull_weight > 0
        self.classifier = nn.Linear(encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> GuideSpace:
        """From ``MODEL.FACE.GUIDE_SPACE``, and ``SEED`` for the guides' orientation."""
        keys = cfg.MODEL.FACE.GUIDE_SPACE
        return cls(
            **cls.settings(cfg),
            num_domains=keys.NUM_DOMAINS,
            angle=keys.ANGLE,
            seed=cfg.SEED,
            temperature=keys.TEMPERATURE,
            domain_momentum=keys.DOMAIN_MOMENTUM,
            bank_size=keys.BANK_SIZE,
            guide_weight=keys.GUIDE_WEIGHT,
            ce_weight=keys.CE_WEIGHT,
            push_weight=keys.PUSH_WEIGHT,
            pull_weight=keys.PULL_WEIGHT,
            adjust=keys.ADJUST,
            adjust_epoch=keys.ADJUST_EPOCH,
            neighbours=keys.NEIGHBOURS,
            other_fake_weight=keys.OTHER_FAKE_WEIGHT,
            set_size=keys.SET_SIZE,
            classifier_input=keys.CLASSIFIER_INPUT,
        )

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self._classify(self.encoder.pool(feature_map))

    def training_modules(self) -> dict[str, nn.Module]:
        """Guides and feature bank."""
        dim = self.encoder.num_features
        embeddings = guide_embeddings(self.num_domains, dim, self.angle, self.seed)
        return {
            "guides": Guides(embeddings, self.domain_momentum),
            "bank": FeatureBank(self.bank_size, dim),
        }

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``l1 L_guide + l2 L_ce + l3 L_push + l4 L_pull`` (eq. 9); F takes the batch."""
        domains = forgery_domains(batch, self.num_domains)
        pooled = self.encoder.pool(self.feature_map(batch.images))
        logits = self._classify(pooled).float()
        with full_precision(pooled):
            features = unit(pooled)
            bank = self.training_part("bank").push(features, domains, batch.clusters)
            to_bank = features @ bank.features.T
            weights = self._weights(to_bank, domains, bank)
            entropies = functional.binary_cross_entropy_with_logits(
                logits, batch.labels.to(logits), reduction="none"
            )
            losses = {"loss_ce": self.ce_weight * (weights * entropies).sum()}
            if self.guide_weight > 0:
                values = self._guide_losses(features, domains, to_bank, bank)
                losses["loss_guide"] = self.guide_weight * (weights * values).sum()
            losses.update(self._decoupling_losses(batch.clusters, domains, to_bank, bank))
        return FaceTrainingOutput(losses)

    def _classify(self, pooled: Tensor) -> Tensor:
        seen = unit(pooled) if self.classifier_input == "unit" else pooled
        return self.classifier(seen).flatten()

    def _weights(self, to_bank: Tensor, domains: Tensor, bank: LabelledFeatures) -> Tensor:
        if not self.adjust or self.epoch < self.adjust_epoch:
            return to_bank.new_full((len(to_bank),), 1 / len(to_bank))
        return sample_weights(
            to_bank, bank.own, domains, bank.domains, self.neighbours, self.other_fake_weight
        )

    def _guide_losses(
        self, features: Tensor, domains: Tensor, to_bank: Tensor, bank: LabelledFeatures
    ) -> Tensor:
        guides = self.training_part("guides")
        target = guides.assign(*gather_rows(features.detach(), domains))[domains]
        to_guides = features @ guides.embeddings.T
        return guide_loss(to_bank, bank.own, to_guides, target, self.temperature)

    def _decoupling_losses(
        self, clusters: Tensor, domains: Tensor, to_bank: Tensor, bank: LabelledFeatures
    ) -> dict[str, Tensor]:
        """Push other domains of the same cluster, pull the same domain of other clusters."""
        if not self.needs_clusters:
            return {}
        log_probability = log_probabilities(to_bank, bank.own, self.temperature)
        same_domain = domains[:, None] == bank.domains[None]
        same_cluster = clusters[:, None] == bank.clusters[None]
        known = (clusters != UNKNOWN_CLUSTER)[:, None] & (bank.clusters != UNKNOWN_CLUSTER)[None]
        losses = {}
        if self.push_weight > 0:
            drawn = draw_columns(known & same_cluster & ~same_domain, self.set_size)
            losses["loss_push"] = self.push_weight * push_loss(log_probability, drawn)
        if self.pull_weight > 0:
            drawn = draw_columns(known & ~same_cluster & same_domain, self.set_size)
            losses["loss_pull"] = self.pull_weight * pull_loss(log_probability, drawn)
        return losses

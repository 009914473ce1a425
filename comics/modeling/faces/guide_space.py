"""GuideSpace, the controllable guide-space method: docs/methods.md#guidespace.

Shape letters: B samples; N crops; C channels of the map; D dimensions of a feature, C without an
embedding; h, w of the map; n forgery domains; M rows of the feature bank F.
"""

from __future__ import annotations

import logging
import math
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
    push_floor,
    push_loss,
    sample_weights,
)
from comics.modeling.faces.guides import guide_embeddings, match_domains
from comics.modeling.faces.layers import full_precision
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import REAL, FaceBatch

logger = logging.getLogger(__name__)

CLASSIFIER_INPUTS = ("pooled", "unit")
UNKNOWN_CLUSTER = -1
RIGHT_ANGLE = 90.0  # degrees, the largest between two vectors without a negative number


class Guides(nn.Module):
    """The guide embeddings, and a moving mean of each forgery domain for batches without it.

    Args:
        embeddings: [1 + n, D]; row 0 is the real guide.
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

    def wanted_angles(self) -> tuple[float, float | None]:
        """Degrees between the real and a forgery guide, and of two forgery guides, if there are."""
        cosines = (self.embeddings @ self.embeddings.T).clamp(-1, 1)
        between = float(cosines[1, 2]) if len(cosines) > 2 else None
        real = math.degrees(math.acos(float(cosines[0, 1])))
        return real, None if between is None else math.degrees(math.acos(between))

    @torch.no_grad()
    def assign(self, features: Tensor, domains: Tensor) -> Tensor:
        """Row of ``embeddings`` for each domain: [1 + n] int64, entry 0 is 0.

        Domains of the batch are matched by their mean feature, others by their moving mean.

        Args:
            features: [B, D] unit vectors of all processes.
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


@torch.no_grad()
def domain_angles(features: Tensor, domains: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Mean degrees between the mean features of reals and of each domain, and of two domains.

    None where the batch has not both.

    Args:
        features: [B, D] unit vectors.
        domains: [B] int64, 0 real.
    """
    present = domains.unique().tolist()
    means = [unit(features[domains == domain].float().mean(dim=0)) for domain in present]
    if len(means) < 2:
        return None, None
    stacked = torch.stack(means)
    angles = torch.rad2deg(torch.acos((stacked @ stacked.T).clamp(-1, 1)))
    first, second = torch.triu_indices(len(means), len(means), 1, device=angles.device)
    pairs, with_real = angles[first, second], torch.tensor(present, device=angles.device) == REAL
    real = with_real[first] | with_real[second]
    return (
        pairs[real].mean() if real.any() else None,
        pairs[~real].mean() if (~real).any() else None,
    )


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
        push_floor: l_min of the push; 0 for ``-log|F| - 1/tau``.
        mask_same_domain: leave a sample's own domain out of the guide loss's denominator.
        embedding_dim: dimensions of a linear embedding after pooling, which then is the feature;
            0 for none.
        classifier_input: "pooled": the feature before normalisation (decision: a linear layer on
            unit vectors starts with logits near 0); "unit".
        encoder: see ``FaceMethod``, as further keyword arguments.

    Raises:
        ValueError: for an unknown ``classifier_input``, or a ``push_floor`` above 0.
    """

    embedding: nn.Linear | None

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
        push_floor: float,
        mask_same_domain: bool,
        embedding_dim: int,
        classifier_input: str,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        if classifier_input not in CLASSIFIER_INPUTS:
            raise ValueError(
                f"GUIDE_SPACE.CLASSIFIER_INPUT must be one of {CLASSIFIER_INPUTS}, "
                f"got {classifier_input!r}"
            )
        if push_floor > 0:
            raise ValueError(f"GUIDE_SPACE.PUSH_FLOOR must be 0 or less, got {push_floor}")
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
        self.push_floor = push_floor
        self.mask_same_domain = mask_same_domain
        self.needs_clusters = push_weight > 0 or pull_weight > 0
        self.dim = embedding_dim or encoder.num_features
        embedding = nn.Linear(encoder.num_features, embedding_dim) if embedding_dim else None
        self.register_module("embedding", embedding)
        self.classifier = nn.Linear(self.dim, 1)
        self._looked = False  # at the sign of the features

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
            push_floor=keys.PUSH_FLOOR,
            mask_same_domain=keys.MASK_SAME_DOMAIN,
            embedding_dim=keys.EMBEDDING_DIM,
            classifier_input=keys.CLASSIFIER_INPUT,
        )

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self._classify(self.embed(feature_map))

    def embed(self, feature_map: Tensor) -> Tensor:
        """Features [N, D], not of unit length, of [N, C, h, w]: pooled, and embedded."""
        pooled = self.encoder.pool(feature_map)
        return pooled if self.embedding is None else self.embedding(pooled)

    def training_modules(self) -> dict[str, nn.Module]:
        """Guides and feature bank."""
        embeddings = guide_embeddings(self.num_domains, self.dim, self.angle, self.seed)
        return {
            "guides": Guides(embeddings, self.domain_momentum),
            "bank": FeatureBank(self.bank_size, self.dim),
        }

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``l1 L_guide + l2 L_ce + l3 L_push + l4 L_pull`` (eq. 9); F takes the batch.

        Metrics, in degrees: "angle_real_fake" and "angle_between_fakes", reached by the batch's
        mean features, beside the guides' own, "..._wanted".
        """
        domains = forgery_domains(batch, self.num_domains)
        embedded = self.embed(self.feature_map(batch.images))
        logits = self._classify(embedded).float()
        with full_precision(embedded):
            features = unit(embedded)
            self._look_at_signs(features)
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
        return FaceTrainingOutput(losses, self._angles(features, domains))

    def _angles(self, features: Tensor, domains: Tensor) -> dict[str, Tensor]:
        """Reached and wanted angles of what the batch has."""
        metrics: dict[str, Tensor] = {}
        names = ("angle_real_fake", "angle_between_fakes")
        reached = domain_angles(features, domains)
        wanted = self.training_part("guides").wanted_angles()
        for name, one, other in zip(names, reached, wanted, strict=True):
            if one is not None and other is not None:
                metrics |= {name: one, f"{name}_wanted": one.new_tensor(other)}
        return metrics

    def _look_at_signs(self, features: Tensor) -> None:
        """Warn, once, where no two features can be as far apart as the guides."""
        if self._looked or len(features) == 0:
            return
        self._looked = True
        if self.guide_weight > 0 and self.angle > RIGHT_ANGLE and bool((features >= 0).all()):
            logger.warning(
                "no feature of this encoder is negative, so no two are further apart than 90 "
                "degrees: GUIDE_SPACE.ANGLE %g is out of reach without a linear embedding "
                "(GUIDE_SPACE.EMBEDDING_DIM 512)",
                self.angle,
            )

    def _classify(self, embedded: Tensor) -> Tensor:
        seen = unit(embedded) if self.classifier_input == "unit" else embedded
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
        left_out = bank.own
        if self.mask_same_domain:
            left_out = left_out | (domains[:, None] == bank.domains[None])
        return guide_loss(to_bank, left_out, to_guides, target, self.temperature)

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
            floor = self.push_floor or push_floor(to_bank.shape[1] - 1, self.temperature)
            losses["loss_push"] = self.push_weight * push_loss(log_probability, drawn, floor)
        if self.pull_weight > 0:
            drawn = draw_columns(known & ~same_cluster & same_domain, self.set_size)
            losses["loss_pull"] = self.pull_weight * pull_loss(log_probability, drawn)
        return losses

"""Two branches, one per compression level, aligned by a discriminator.

docs/methods.md#compressionrelation-baselines. The paper (4.2, after its reference 9) describes
it in four sentences; what they leave open is reconstructed here.
Shape letters: B samples; V of them with a strong view; D dimensions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.base import FaceTrainingOutput, average_statistics
from comics.modeling.faces.embedding import EmbeddingMethod
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import LevelDiscriminator, binary_cross_entropy
from comics.ops.contrastive import mean_or_zero
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch

BRANCHES = ("strong", "weak")
DISTANCE_EPSILON = 1e-12  # under the root: the gradient of a distance of 0 stays finite


def pair_margin_loss(embeddings: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over pairs: d^2 within a class, ``max(margin - d, 0)^2`` across (Hadsell et al. 2006).

    The pairs within classes and those across are averaged apart, then added, so that class
    imbalance does not weigh them (reconstructed). A kind without pairs adds a connected 0.

    Args:
        embeddings: [B, D].
        labels: [B] int64.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    squared = (embeddings[first] - embeddings[second]).pow(2).sum(dim=1)
    same = labels[first] == labels[second]
    apart = (margin - (squared[~same] + DISTANCE_EPSILON).sqrt()).clamp(min=0)
    return mean_or_zero(squared[same]) + mean_or_zero(apart.pow(2))


@FACE_METHODS.register()
class MetricLearning(EmbeddingMethod):
    """The "Metric learning" of 4.2: two networks, a discriminator, and a metric loss.

    One branch sees weakly, the other strongly compressed frames; both share the predictor. The
    branch that is kept for inference is this model's own, the other exists only in training.

    Args:
        branch: which one is kept, "strong" or "weak".
        weight, margin: of the metric loss of unit embeddings, in either branch.
        adversarial_weight, reversal, discriminator_dim: of the discriminator.
        encoder: see ``EmbeddingMethod``, as further keyword arguments.

    Raises:
        ValueError: for another branch.
    """

    views: tuple[str, ...] = ("strong",)
    skips_parameters = True  # without a strongly compressed face one of the networks rests

    def __init__(
        self,
        encoder: Encoder,
        *,
        branch: str,
        weight: float,
        margin: float,
        adversarial_weight: float,
        reversal: float,
        discriminator_dim: int,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        if branch not in BRANCHES:
            raise ValueError(f"METRIC.BRANCH must be one of {BRANCHES}, got {branch!r}")
        self.branch = branch
        self.weight = weight
        self.margin = margin
        self.adversarial_weight = adversarial_weight
        self.reversal = reversal
        self.discriminator_dim = discriminator_dim

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MetricLearning:
        """From ``MODEL.FACE.METRIC``, ``.ADVERSARIAL`` (the discriminator) and ``.EMBEDDING``."""
        keys, adversarial = cfg.MODEL.FACE.METRIC, cfg.MODEL.FACE.ADVERSARIAL
        return cls(
            **cls.settings(cfg),
            branch=keys.BRANCH,
            weight=keys.WEIGHT,
            margin=keys.MARGIN,
            adversarial_weight=keys.ADVERSARIAL_WEIGHT,
            reversal=adversarial.REVERSAL,
            discriminator_dim=adversarial.HIDDEN_DIM,
        )

    def training_modules(self) -> dict[str, nn.Module]:
        """The other branch, starting as a copy of this one, and the discriminator."""
        return {
            "encoder": copy.deepcopy(self.encoder),
            "projector": copy.deepcopy(self.projector),
            "discriminator": LevelDiscriminator(self.dim, self.discriminator_dim, self.reversal),
        }

    def after_optimizer_step(self) -> None:
        """As ``FaceMethod``; the other branch's statistics are averaged too."""
        super().after_optimizer_step()
        average_statistics(self.training_part("encoder"))

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy and metric loss of either branch, and the discriminator's loss."""
        valid = batch.valid["strong"]
        embed_weak = self._embed_own if self.branch == "weak" else self._embed_other
        embed_strong = self._embed_other if self.branch == "weak" else self._embed_own
        weak = embed_weak(batch.images)
        strong = embed_strong(batch.views["strong"][valid])
        labels = torch.cat([batch.labels, batch.labels[valid]])
        metric = pair_margin_loss(unit(weak), batch.labels, self.margin)
        metric = metric + pair_margin_loss(unit(strong), batch.labels[valid], self.margin)
        adversarial = self.training_part("discriminator")(weak[valid], strong)
        return FaceTrainingOutput(
            {
                "loss_ce": binary_cross_entropy(self.predict(torch.cat([weak, strong])), labels),
                "loss_metric": self.weight * metric,
                "loss_adversarial": self.adversarial_weight * adversarial,
            }
        )

    def _embed_own(self, crops: Tensor) -> Tensor:
        if len(crops) == 0:
            return self.pixel_mean.new_zeros(0, self.dim)
        return self.map_embeddings(self.feature_map(crops))

    def _embed_other(self, crops: Tensor) -> Tensor:
        if len(crops) == 0:
            return self.pixel_mean.new_zeros(0, self.dim)
        features = self.training_part("encoder")(self.preprocess(crops))
        return self.training_part("projector")(features)

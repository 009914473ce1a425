"""DCL, dual contrastive learning: docs/methods.md#dcl.

Shape letters: B samples; V of them with some view; C channels; h, w of the feature map; P = h * w
its cells, which are also the dimensions of a spatial embedding; M keys of a bank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.bank import gather_rows
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.modeling.faces.selective_banks import SelectiveBanks
from comics.modeling.momentum import MomentumEncoder
from comics.ops.contrastive import info_nce, mean_or_zero, zero_of
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import FAKE, REAL, FaceBatch

FORGED_SHARE = 0.5  # of a cell's pixels, from which a stored mask makes the cell forged (decision)
NUM_WEIGHTS = 3  # of L_inter, L_f and L_r


class SpatialEmbedding(nn.Module):
    """A 1x1 convolution to one channel, of unit length (docs/methods.md#dcl-embedding)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, 1, kernel_size=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, h, w] to [B, P]."""
        return unit(self.squeeze(feature_map).flatten(1))


class KeyNetwork(nn.Module):
    """Encoder and spatial embedding in a row: what the key encoder copies."""

    def __init__(self, encoder: Encoder, embedding: SpatialEmbedding) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        """Normalised crops [B, 3, S, S] to keys [B, P]."""
        return self.embedding(self.encoder.forward_map(x))


def inter_instance_loss(
    query: Tensor, key: Tensor, labels: Tensor, banks: Sequence[Tensor], temperature: float
) -> Tensor:
    """Mean InfoNCE of two views of a face; the bank of the other class repels (eq. 3).

    A query whose bank is empty adds 0; without queries the loss is a connected 0.

    Args:
        query, key: [V, P] unit vectors.
        labels: [V] int64.
        banks: the keys of reals, and of fakes: [M_c, P] each.
    """
    values = []
    for label in (REAL, FAKE):
        own = labels == label
        positive = (query[own] * key[own]).sum(dim=1)
        values.append(info_nce(positive, query[own] @ banks[1 - label].T, temperature))
    return mean_or_zero(torch.cat(values))


def forged_contrast_loss(similarity: Tensor, forged: Tensor, temperature: float) -> Tensor:
    """Mean over fakes of ``-log(S_rr / (S_rr + S_fr))`` (eq. 7).

    S_rr sums ``e^(cosine / temperature)`` over all pairs of real cells, S_fr over forged with
    real ones. A fake without cells of both kinds is left out; without any it is a connected 0.

    Args:
        similarity: [V, P, P] cosines of the cells' features.
        forged: [V, P] bool.
    """
    usable = forged.any(dim=1) & ~forged.all(dim=1)
    similarity, forged = similarity[usable] / temperature, forged[usable]
    real = ~forged
    within = similarity.masked_fill(~(real[:, :, None] & real[:, None, :]), -math.inf)
    across = similarity.masked_fill(~(forged[:, :, None] & real[:, None, :]), -math.inf)
    margin = across.flatten(1).logsumexp(dim=1) - within.flatten(1).logsumexp(dim=1)
    return mean_or_zero(functional.softplus(margin))


def real_consistency_loss(similarity: Tensor, temperature: float) -> Tensor:
    """Mean over reals of ``-log mean e^(cosine / temperature)`` over all pairs of cells (eq. 8).

    The paper's sum is a mean here: a constant apart (docs/methods.md#dcl-intra).

    Args:
        similarity: [V, P, P] cosines of the cells' features.
    """
    pairs = similarity.shape[1] * similarity.shape[2]
    sums = (similarity / temperature).flatten(1).logsumexp(dim=1)
    return mean_or_zero(math.log(pairs) - sums)


@FACE_METHODS.register()
class DCL(FaceMethod):
    """Dual contrastive learning.

    Views: "key", the second view of a face; "paired_real", the real frame that a fake was made
    from, in the geometry and the photometry of ``images``. Where a fake has no paired real, its
    stored mask tells the forged region, and without that it has no intra-instance loss.

    Args:
        inter, intra: switches of the two contrasts (Table 5).
        key_momentum: beta of the key encoder.
        temperature: tau.
        bank_size, prototype_momentum, select, select_threshold, select_topk: see
            ``SelectiveBanks``.
        mask_threshold: a cell is forged above this mean ``|x_fake - x_real|``, 0-255 scale.
        weights: of L_inter, L_f and L_r within phi.
        contrast_weight: phi; cross-entropy gets ``1 - phi``. Without either contrast it is 0.
        warmup_weight: phi in the first ``warmup_epochs``.
        encoder: see ``FaceMethod``, as further keyword arguments.

    Raises:
        ValueError: for an unknown ``select``, or weights that are not three numbers >= 0.
    """

    views: tuple[str, ...] = ("key", "paired_real")
    needs_masks = True
    crop_size = 299

    def __init__(
        self,
        encoder: Encoder,
        *,
        inter: bool,
        intra: bool,
        key_momentum: float,
        temperature: float,
        bank_size: int,
        prototype_momentum: float,
        select: str,
        select_threshold: float,
        select_topk: int,
        mask_threshold: float,
        weights: Sequence[float],
        contrast_weight: float,
        warmup_weight: float,
        warmup_epochs: int,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        self.inter = inter
        self.intra = intra
        self.key_momentum = key_momentum
        self.temperature = temperature
        self.bank_settings: dict[str, Any] = {
            "size": bank_size,
            "momentum": prototype_momentum,
            "select": select,
            "threshold": select_threshold,
            "topk": select_topk,
        }
        self.mask_threshold = mask_threshold
        self.weights = tuple(weights)
        if len(self.weights) != NUM_WEIGHTS or min(self.weights) < 0:
            raise ValueError(f"DCL.WEIGHTS must be three numbers >= 0, got {list(weights)}")
        self.contrast_weight = contrast_weight
        self.warmup_weight = warmup_weight
        self.warmup_epochs = warmup_epochs
        wanted = {"key": inter, "paired_real": intra}
        self.views = tuple(view for view, used in wanted.items() if used)
        self.needs_masks = intra
        self.classifier = nn.Linear(encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DCL:
        """From ``MODEL.FACE.DCL``."""
        keys = cfg.MODEL.FACE.DCL
        return cls(
            **cls.settings(cfg),
            inter=keys.INTER,
            intra=keys.INTRA,
            key_momentum=keys.KEY_MOMENTUM,
            temperature=keys.TEMPERATURE,
            bank_size=keys.BANK_SIZE,
            prototype_momentum=keys.PROTOTYPE_MOMENTUM,
            select=keys.SELECT,
            select_threshold=keys.SELECT_THRESHOLD,
            select_topk=keys.SELECT_TOPK,
            mask_threshold=keys.MASK_THRESHOLD,
            weights=keys.WEIGHTS,
            contrast_weight=keys.CONTRAST_WEIGHT,
            warmup_weight=keys.WARMUP_WEIGHT,
            warmup_epochs=keys.WARMUP_EPOCHS,
        )

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]."""
        return self.classifier(self.encoder.pool(feature_map)).flatten()

    def training_modules(self) -> dict[str, nn.Module]:
        """Spatial embedding, key encoder and banks, where the inter-instance contrast is on."""
        if not self.inter:
            return {}
        height, width = self.encoder.map_size(self.crop_size)
        embedding = SpatialEmbedding(self.encoder.num_features).to(self.pixel_mean.device)
        network = KeyNetwork(self.encoder, embedding)
        return {
            "embedding": embedding,
            "key_encoder": MomentumEncoder(network, self.key_momentum),
            "banks": SelectiveBanks(dim=height * width, **self.bank_settings),
        }

    def after_optimizer_step(self) -> None:
        """As ``FaceMethod``; the key encoder follows the query encoder (eq. 1)."""
        super().after_optimizer_step()
        if self.inter:
            network = KeyNetwork(self.encoder, self.training_part("embedding"))
            self.training_part("key_encoder").update(network)

    @property
    def phi(self) -> float:
        """Weight of the contrastive losses in this epoch."""
        if not (self.inter or self.intra):
            return 0.0
        return self.warmup_weight if self.epoch < self.warmup_epochs else self.contrast_weight

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``phi (w L_inter + w L_f + w L_r) + (1 - phi) L_ce`` (eq. 10); the banks take the keys.

        Metric "accepted": the share of this step's keys that entered a bank.
        """
        feature_map = self.feature_map(batch.images)
        cross_entropy = binary_cross_entropy(self.map_logits(feature_map), batch.labels)
        losses = {"loss_ce": (1 - self.phi) * cross_entropy}
        metrics: dict[str, Tensor] = {}
        inter, forged, real = (self.phi * weight for weight in self.weights)
        with full_precision(feature_map):
            if self.inter:
                loss, accepted = self._inter_loss(feature_map, batch)
                losses["loss_inter"] = inter * loss
                if accepted is not None:
                    metrics["accepted"] = loss.new_tensor(accepted)
            if self.intra:
                of_fakes, of_reals = self._intra_losses(feature_map, batch)
                losses["loss_intra_fake"] = forged * of_fakes
                losses["loss_intra_real"] = real * of_reals
        return FaceTrainingOutput(losses, metrics)

    def _inter_loss(self, feature_map: Tensor, batch: FaceBatch) -> tuple[Tensor, float | None]:
        """The loss, and the share of keys that the banks took; None without a key."""
        valid = batch.valid["key"]
        labels = batch.labels[valid]
        embedding, banks = self.training_part("embedding"), self.training_part("banks")
        query = embedding(feature_map[valid].float())
        if query.shape[1] != banks.dim:
            raise ValueError(
                f"crops of {tuple(batch.images.shape[-2:])} pixels give {query.shape[1]} cells; "
                f"the banks are for crops of {self.crop_size}, {banks.dim} cells"
            )
        keys = query.detach()  # of the right shape where there is no view
        if len(keys):
            keys = self.training_part("key_encoder")(self.preprocess(batch.views["key"][valid]))
        loss = inter_instance_loss(query, keys, labels, banks.rows(), self.temperature)
        accepted = banks.update(*gather_rows(keys, labels))
        return loss, accepted

    def _intra_losses(self, feature_map: Tensor, batch: FaceBatch) -> tuple[Tensor, Tensor]:
        cells = unit(feature_map, dim=1).flatten(2)
        real = cells[batch.labels == REAL]
        height, width = feature_map.shape[-2:]
        forged_cells, known = self._forged_cells(batch, (height, width))
        fake = cells[known]
        return (
            forged_contrast_loss(fake.mT @ fake, forged_cells[known], self.temperature)
            if len(fake)
            else zero_of(feature_map),
            real_consistency_loss(real.mT @ real, self.temperature)
            if len(real)
            else zero_of(feature_map),
        )

    def _forged_cells(self, batch: FaceBatch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Which cells are forged [B, P], and of which samples this is known [B]."""
        difference = (batch.images.float() - batch.views["paired_real"].float()).abs().mean(dim=1)
        paired = batch.valid["paired_real"]
        forged = functional.adaptive_avg_pool2d(difference, size) > self.mask_threshold
        stored = torch.zeros_like(paired)
        if batch.masks is not None and "mask" in batch.valid:
            stored = batch.valid["mask"]
            share = functional.adaptive_avg_pool2d(batch.masks.float(), size)
            forged = torch.where(paired[:, None, None], forged, share >= FORGED_SHARE)
        return forged.flatten(1), (paired | stored) & (batch.labels == FAKE)

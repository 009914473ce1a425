"""Bi-grained contrastive learning: losses between faces, and between the regions of faces.

Both losses know features, boxes and masks; neither knows a detector. Shape letters: B images;
C channels; h, w of a pyramid level; P proposals; F faces; D dimensions; S side of a face's map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.bank import ClassBanks, gather_rows
from comics.modeling.detectors.base import LevelBoxes, LevelProposals
from comics.modeling.matching import (
    MATCH_RULES,
    labels_of,
    no_proposals,
    overlapping,
    overlapping_any,
)
from comics.modeling.regions import SAMPLING_RULES, FaceRegions, face_regions
from comics.ops.compiled import roi_align
from comics.ops.similarity import contrast_groups, flat_nce, mean_direction, unit
from comics.ops.transfers import on_device, on_host
from comics.structures import CLASS_NAMES, FAKE, REAL, Faces

NEGATIVE_RULES = ("opposite", "same")
PAIR_RULES = ("batch", "image")
GROUND_TRUTH, PREDICTED = "ground_truth", "predicted"
MASK_SOURCES = (GROUND_TRUTH, PREDICTED)
ALL_LEVELS = "all"  # the one scale of a contrast that is not multi-scale


class ProposalContrast(nn.Module):
    """Coarse-grained contrast of proposals with banks of past keys.

    docs/methods.md#comics-proposals. A proposal's feature in view q is pulled to the same place of
    view k, and pushed from the keys in the bank of the **opposite** class, or literally of its own
    (docs/methods.md#comics-negatives).

    While training it has a state: banks, prototypes and, with a warm-up, the number of steps so
    far, which ``after_optimizer_step`` counts.

    Args:
        in_channels: C of the pyramid.
        levels: names of the levels used, e.g. "p3".
        level_weights: omega, one per level.
        dim: D of the projections.
        temperature: tau.
        match: "iou": the predicted box of view q must overlap the face that the detector assigned
            it to by more than ``match_iou``; "assigned": the assignment is enough; "any": every
            proposal of either view that overlaps any face so much.
        match_iou: threshold in [0, 1].
        match_warmup: optimiser steps in which the threshold rises from 0 to ``match_iou``,
            linearly; 0: it is ``match_iou`` from the start.
        negatives: the bank that a proposal is pushed from: "opposite", that of the other class; or
            "same", that of its own, as the paper's sentence has it.
        bank_size: keys per scale and class at most.
        prototype_momentum: alpha.
        enqueue: keys per scale, class and step.
        mining: see ``ClassBanks``.
        prototype_update: see ``Prototypes``.
        share_empty_levels: a level without a term in this step gives its weight to the others, in
            proportion to theirs, so that the weights that count always have the same sum.
        multi_scale: False: one projection and one bank for all levels together, of weight 1
            ("CL w.o. MS" of Table V).

    Raises:
        ValueError: for an unknown rule, level weights that do not fit the levels, or a negative
            warm-up.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        levels: Sequence[str],
        level_weights: Sequence[float],
        dim: int = 128,
        temperature: float = 0.7,
        match: str = "iou",
        match_iou: float = 0.6,
        match_warmup: int = 0,
        negatives: str = "opposite",
        bank_size: int = 4096,
        prototype_momentum: float = 0.9,
        prototype_update: str = "proposal",
        enqueue: int = 5,
        mining: str = "own",
        multi_scale: bool = True,
        share_empty_levels: bool = False,
    ) -> None:
        super().__init__()
        _require_choice("PROPOSAL.MATCH", match, MATCH_RULES)
        _require_choice("PROPOSAL.NEGATIVES", negatives, NEGATIVE_RULES)
        if len(levels) != len(level_weights):
            raise ValueError(f"{len(levels)} levels {list(levels)}, {len(level_weights)} weights")
        if match_warmup < 0:
            raise ValueError(f"PROPOSAL.MATCH_WARMUP_ITERS must be >= 0, got {match_warmup}")
        self.temperature = temperature
        self.match = match
        self.match_iou = match_iou
        self.match_warmup = match_warmup
        self.same_class_negatives = negatives == "same"
        self.share_empty_levels = share_empty_levels
        if match_warmup:  # in checkpoints, so that a resumed run is the same run
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.scales = {s: [s] for s in levels} if multi_scale else {ALL_LEVELS: list(levels)}
        self.weights = dict(zip(levels, level_weights, strict=True))
        self.weights[ALL_LEVELS] = 1.0
        self.projections = nn.ModuleDict({s: nn.Linear(in_channels, dim) for s in self.scales})
        self.banks = nn.ModuleDict(
            {
                scale: ClassBanks(
                    num_classes=len(CLASS_NAMES),
                    size=bank_size,
                    dim=dim,
                    momentum=prototype_momentum,
                    per_step=enqueue,
                    mining=mining,
                    update=prototype_update,
                )
                for scale in self.scales
            }
        )

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments from ``MODEL.COMICS.PROPOSAL``."""
        proposal = cfg.MODEL.COMICS.PROPOSAL
        return {
            "in_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "levels": list(proposal.LEVELS),
            "level_weights": list(proposal.LEVEL_WEIGHTS),
            "dim": proposal.DIM,
            "temperature": proposal.TEMPERATURE,
            "match": proposal.MATCH,
            "match_iou": proposal.MATCH_IOU,
            "match_warmup": proposal.MATCH_WARMUP_ITERS,
            "negatives": proposal.NEGATIVES,
            "bank_size": proposal.BANK_SIZE,
            "prototype_momentum": proposal.PROTOTYPE_MOMENTUM,
            "prototype_update": proposal.PROTOTYPE_UPDATE,
            "enqueue": proposal.ENQUEUE,
            "mining": proposal.MINING,
            "multi_scale": proposal.MULTI_SCALE,
            "share_empty_levels": proposal.SHARE_EMPTY_LEVELS,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ProposalContrast:
        """From ``MODEL.COMICS.PROPOSAL`` and ``MODEL.FPN.OUT_CHANNELS``."""
        return cls(**cls.settings(cfg))

    @property
    def needs_every_proposal(self) -> bool:
        """Whether ``forward`` matches proposals by itself and needs those of both views."""
        return self.match == "any"

    @property
    def iou_threshold(self) -> float:
        """The overlap that this step's proposals must exceed."""
        if not self.match_warmup:
            return self.match_iou
        return self.match_iou * min(int(self.steps) / self.match_warmup, 1.0)

    def after_optimizer_step(self) -> None:
        """Count a step of the warm-up."""
        if self.match_warmup:
            self.steps += 1

    def forward(
        self,
        query: Mapping[str, Tensor],
        key: Mapping[str, Tensor],
        key_projections: nn.ModuleDict,
        proposals: Mapping[str, LevelProposals],
        targets: Sequence[Faces],
        every: Sequence[Mapping[str, LevelBoxes]] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one step; then the banks and prototypes take the step's keys.

        Every process must call it in every step, faces or not: keys are gathered.

        Args:
            query, key: level name -> [B, C, h, w] of either view; ``key`` without gradient.
            key_projections: the key encoder's copy of ``projections``.
            proposals: level name -> proposals of view q that the detector assigns to faces.
            targets: ground truth of both views.
            every: of each view, level name -> all its proposals; where ``needs_every_proposal``.

        Returns:
            ``sum over scales of omega * mean FlatNCE``, before lambda; a scale without queries or
            negatives adds an exact 0 that reaches its projection's parameters. And the metrics:
            "proposal_info_nce" (mean over all contrasted proposals, 0 without), "proposal_pairs"
            (their number).

        Raises:
            ValueError: if the pyramid lacks a level.
        """
        with torch.autocast(device_type=next(iter(query.values())).device.type, enabled=False):
            matched = self._matched(proposals, every, targets)
            scales = {
                scale: self._pairs(scale, query, key, key_projections, matched, targets)
                for scale in self.scales
            }
            classes = on_host(*(labels for *_, labels in scales.values()))
            terms = {
                scale: self._loss(scale, first, second, known)
                for (scale, (first, second, _)), known in zip(scales.items(), classes, strict=True)
            }
            self._remember(scales)
        weights = self._level_weights({s: len(reported) > 0 for s, (_, reported) in terms.items()})
        loss = reduce(add, (weights[scale] * flat for scale, (flat, _) in terms.items()))
        info_nce = torch.cat([reported for _, reported in terms.values()])
        count = info_nce.new_full((), float(len(info_nce)))
        metrics = {"proposal_info_nce": info_nce.sum() / count.clamp(min=1)}
        return loss, {**metrics, "proposal_pairs": count}

    def _pairs(
        self,
        scale: str,
        query: Mapping[str, Tensor],
        key: Mapping[str, Tensor],
        key_projections: nn.ModuleDict,
        proposals: Mapping[str, LevelProposals],
        targets: Sequence[Faces],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unit projections of a scale's proposals in either view [P, D], and their labels [P].

        ``proposals`` are those that count as faces.
        """
        queries, keys, labels = [], [], []
        for level in self.scales[scale]:
            if level not in query:
                raise ValueError(f"PROPOSAL.LEVELS names {level!r}; the pyramid has {list(query)}")
            chosen = proposals.get(level) or no_proposals(query[level].device)
            classes = labels_of(chosen, targets)
            queries.append(proposal_features(level, query[level], chosen))
            keys.append(proposal_features(level, key[level], chosen))
            labels.append(classes)
        projected = unit(self.projections[scale](torch.cat(queries)))
        with torch.no_grad():
            key_projected = unit(key_projections[scale](torch.cat(keys)))
        return projected, key_projected, torch.cat(labels)

    def _matched(
        self,
        proposals: Mapping[str, LevelProposals],
        every: Sequence[Mapping[str, LevelBoxes]],
        targets: Sequence[Faces],
    ) -> Mapping[str, LevelProposals]:
        """The proposals of each level that count as faces."""
        if self.match == "any":
            return overlapping_any(every, targets, self.iou_threshold)
        if self.match == "assigned":
            return proposals
        return overlapping(proposals, targets, self.iou_threshold)

    def _level_weights(self, present: Mapping[str, bool]) -> dict[str, float]:
        """Omega of each scale; with ``share_empty_levels`` those present have the sum of all."""
        weights = {scale: self.weights[scale] for scale in present}
        left = sum(weight for scale, weight in weights.items() if present[scale])
        if not self.share_empty_levels or not left:
            return weights
        return {scale: weight * sum(weights.values()) / left for scale, weight in weights.items()}

    def _loss(
        self, scale: str, query: Tensor, key: Tensor, labels: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Mean FlatNCE of a scale's queries, and the InfoNCE of each that has negatives.

        ``labels`` [P] are on the host.
        """
        losses, reported = [query[:0].sum(dim=1)], [query.detach()[:0].sum(dim=1)]
        positive = (query * key).sum(dim=1)
        for label, other in ((REAL, FAKE), (FAKE, REAL)):
            mine = on_device(np.flatnonzero(labels == label), query.device)
            pushed = label if self.same_class_negatives else other
            negatives = cast(ClassBanks, self.banks[scale]).rows(pushed)
            if len(negatives):
                flat, info = flat_nce(positive[mine], query[mine] @ negatives.T, self.temperature)
                losses.append(flat)
                reported.append(info)
        joined = torch.cat(losses)
        return joined.sum() / max(len(joined), 1), torch.cat(reported)

    @torch.no_grad()
    def _remember(self, scales: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> None:
        """Give every bank the keys of all processes: one exchange for all scales."""
        keys = torch.cat([key for _, key, _ in scales.values()])
        labels = torch.cat([labels for *_, labels in scales.values()])
        counts = [len(labels) for *_, labels in scales.values()]
        scale_index = on_device(np.repeat(np.arange(len(scales)), counts), labels.device)
        keys, labels, scale_index = gather_rows(keys, labels, scale_index)
        # An overflow in one step must not stay in the banks
        finite, known, scales_known = on_host(keys.isfinite().all(dim=1), labels, scale_index)
        for index, scale in enumerate(scales):
            here = (scales_known == index) & (finite > 0)
            groups = [
                keys[on_device(np.flatnonzero(here & (known == label)), keys.device)]
                for label in range(len(CLASS_NAMES))
            ]
            cast(ClassBanks, self.banks[scale]).update_groups(groups)


def proposal_features(level: str, feature: Tensor, proposals: LevelProposals) -> Tensor:
    """Features of proposals, float32 [P, C]: the map at their cells, or pooled from their boxes.

    Gathering first and projecting then equals a 1x1 convolution of the whole map read at the
    proposals, at a fraction of its cost. Boxes are averaged over their whole area by ROIAlign;
    level "pN" has stride 2^N.

    Args:
        level: name of the level.
        feature: [B, C, h, w].
        proposals: those of this level.
    """
    if proposals.cells is not None:
        return feature.flatten(2)[proposals.image, :, proposals.cells].float()
    rois = torch.cat((proposals.image[:, None].to(proposals.boxes), proposals.boxes), dim=1)
    scale = 2.0 ** -int(level.removeprefix("p"))
    pooled = roi_align(feature.float(), rois.float(), 1, spatial_scale=scale, aligned=True)
    return pooled.flatten(1)


class PixelContrast(nn.Module):
    """Fine-grained contrast of faces with their surroundings and with each other.

    docs/methods.md#comics-pixel (section V of the paper). It has no parameters and no state.

    Args:
        temperature: tau.
        size, context, margin, sampling: see ``face_regions``.
        masks: "ground_truth" (decision; the paper's predicted masks are noise at first), or
            "predicted": ``forward``'s regions are to be made of what the detector predicts.
        predicted_iou: overlap in [0, 1] of a face's box and the detection whose mask it takes.
        pairs: inter-face pairs within the "batch" or the "image".

    Raises:
        ValueError: for an unknown rule, or a value out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.7,
        size: int = 28,
        context: float = 1.0,
        margin: int = 2,
        sampling: str = "far",
        masks: str = GROUND_TRUTH,
        predicted_iou: float = 0.5,
        pairs: str = "batch",
    ) -> None:
        super().__init__()
        _require_choice("PIXEL.SAMPLING", sampling, SAMPLING_RULES)
        _require_choice("PIXEL.MASKS", masks, MASK_SOURCES)
        _require_choice("PIXEL.PAIRS", pairs, PAIR_RULES)
        if context <= 0 or margin < 0:
            raise ValueError(f"context must be > 0 and margin >= 0, got {context} and {margin}")
        self.temperature = temperature
        self.size = size
        self.context = context
        self.margin = margin
        self.sampling = sampling
        self.predicts_masks = masks == PREDICTED
        self.predicted_iou = predicted_iou
        self.pairs = pairs

    @classmethod
    def from_config(cls, cfg: CfgNode) -> PixelContrast:
        """From ``MODEL.COMICS.PIXEL``."""
        pixel = cfg.MODEL.COMICS.PIXEL
        return cls(
            temperature=pixel.TEMPERATURE,
            size=pixel.SIZE,
            context=pixel.CONTEXT,
            margin=pixel.BOUNDARY_MARGIN,
            sampling=pixel.SAMPLING,
            masks=pixel.MASKS,
            predicted_iou=pixel.PREDICTED_IOU,
            pairs=pixel.PAIRS,
        )

    def regions(self, targets: Sequence[Faces]) -> FaceRegions:
        """The usable faces of a batch; errors as ``face_regions``."""
        return face_regions(
            targets,
            size=self.size,
            context=self.context,
            margin=self.margin,
            sampling=self.sampling,
        )

    def forward(self, features: Tensor, regions: FaceRegions) -> tuple[Tensor, Tensor]:
        """Intra-face and inter-face loss (eq. 6, eq. 8), scalars before lambda.

        A batch with no face of one class gives exact zeros connected to ``features``.

        Args:
            features: [F, C, S, S] of the mask predictor, of the regions' boxes.
            regions: from ``regions``.
        """
        with torch.autocast(device_type=features.device.type, enabled=False):
            face = mean_direction(features, regions.face)
            background = mean_direction(features, regions.background)
            real, fake = (
                on_device(np.flatnonzero(regions.labels == label), features.device)
                for label in (REAL, FAKE)
            )
            contrast = (face * background).sum(dim=1)
            intra = contrast_groups(contrast[real], contrast[fake], self.temperature)
            between = (background[real] @ background[fake].T, face[real] @ face[fake].T)
            if self.pairs == "image":
                allowed = on_device(_pairs_of_an_image(regions), features.device)
                between = (between[0].flatten()[allowed], between[1].flatten()[allowed])
            inter = contrast_groups(*between, self.temperature)
        return intra, inter


def _pairs_of_an_image(regions: FaceRegions) -> np.ndarray:
    """Positions, among all pairs of a real and a forged face, of those of one image."""
    real, fake = (regions.image[regions.labels == label] for label in (REAL, FAKE))
    return np.flatnonzero(real[:, None] == fake)


def _require_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"MODEL.COMICS.{key} must be one of {tuple(choices)}, got {value!r}")

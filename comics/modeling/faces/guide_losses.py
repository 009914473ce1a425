"""GuideSpace's losses and sample weights, as functions of cosines (3.2-3.4 of its paper).

Shape letters: B samples; M rows of the feature set F; G guides; s rows drawn from F.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from comics.ops.contrastive import zero_of
from comics.structures import REAL


def guide_loss(
    to_bank: Tensor, left_out: Tensor, to_guides: Tensor, target: Tensor, temperature: float
) -> Tensor:
    """``-log(e^(f.g/t) / sum over F and G without f itself of e^(f.v/t))`` per sample (eq. 3).

    The paper's formula is lost; reconstructed (docs/methods.md#guidespace-guide-loss).

    Args:
        to_bank: [B, M] cosines with F.
        left_out: [B, M] bool, rows of F that are not in the sum: the sample itself, and with
            ``MASK_SAME_DOMAIN`` its domain.
        to_guides: [B, G] cosines with the guides.
        target: [B] int64, the sample's guide.

    Returns:
        [B].
    """
    repelling = to_bank.masked_fill(left_out, -math.inf)
    candidates = torch.cat([repelling, to_guides], dim=1) / temperature
    chosen = to_guides.gather(1, target[:, None]).flatten() / temperature
    return candidates.logsumexp(dim=1) - chosen


@torch.no_grad()
def sample_weights(
    to_bank: Tensor,
    own: Tensor,
    domains: Tensor,
    bank_domains: Tensor,
    neighbours: int,
    other_fake_weight: float,
) -> Tensor:
    """A-DBM: weights [B] of sum 1, larger where a sample's neighbours are of other domains.

    ``C = S_same / (S_same + sum alpha s)`` over the k nearest of F (eq. 5), ``w = softmax(-C)``
    (eq. 6, reconstructed). alpha is 1, but ``other_fake_weight`` between two forgery methods;
    negative similarities count as 0, and a sample with none positive has C = 0 (decision). With
    fewer than k others in F all weights are equal.

    Args:
        to_bank: [B, M] cosines with F.
        own: [B, M] bool, the sample itself in F.
        domains: [B] int64, 0 real.
        bank_domains: [M] int64.
        neighbours: k.
        other_fake_weight: alpha between two forgery methods.
    """
    count, size = to_bank.shape
    if size - 1 < neighbours:
        return to_bank.new_full((count,), 1 / count)
    nearest = to_bank.masked_fill(own, -math.inf).topk(neighbours, dim=1)
    similarity = nearest.values.clamp(min=0)
    found = bank_domains[nearest.indices]
    same = found == domains[:, None]
    both_fake = (found != REAL) & (domains != REAL)[:, None]
    alpha = torch.where(both_fake, other_fake_weight, 1.0)
    agreeing = (similarity * same).sum(dim=1)
    opposing = (similarity * alpha * ~same).sum(dim=1)
    total = agreeing + opposing
    confidence = torch.where(total > 0, agreeing / total.clamp(min=1e-12), torch.zeros_like(total))
    return (-confidence).softmax(dim=0)


def draw_columns(eligible: Tensor, count: int) -> Tensor:
    """Of each row's eligible columns, ``count`` at random, or all if fewer: [B, M] bool."""
    order = torch.rand(eligible.shape, device=eligible.device).masked_fill(~eligible, -1.0)
    chosen = torch.zeros_like(eligible)
    best = order.topk(min(count, eligible.shape[1]), dim=1).indices
    chosen.scatter_(1, best, True)
    return chosen & eligible


def log_probabilities(to_bank: Tensor, own: Tensor, temperature: float) -> Tensor:
    """``l_ij = log(e^(f_i.f_j/t) / sum_F e^(f_i.f/t))``: [B, M].

    The sample itself is left out of the sum (decision): it would be the largest term of all, and
    without gradient. Where F holds nothing else, l is 0.
    """
    scaled = to_bank / temperature
    alone = own.all(dim=1, keepdim=True)  # an empty sum would have a gradient of NaN
    others = scaled.masked_fill(own & ~alone, -math.inf)
    return scaled - others.logsumexp(dim=1, keepdim=True)


def pull_loss(log_probability: Tensor, drawn: Tensor) -> Tensor:
    """Mean of ``-l_ij`` over the drawn set of each sample, then over samples with one (eq. 8).

    Args:
        log_probability: [B, M].
        drawn: [B, M] bool; without any the loss is a connected 0.
    """
    return _mean_of_sets(-log_probability, drawn)


def push_loss(log_probability: Tensor, drawn: Tensor, floor: float) -> Tensor:
    """Mean of ``max(l_ij, floor)``, as ``pull_loss`` (eq. 7).

    The paper minimises l itself, which has no lower bound: below ``floor`` a pair is far enough
    apart, above it the gradient is that of pulling, the other way
    (docs/methods.md#guidespace-decoupling, reconstructed).
    """
    return _mean_of_sets(log_probability.clamp(min=floor), drawn)


def push_floor(others: int, temperature: float) -> float:
    """``-log|F| - 1/t``: l of a pair whose cosine is 1 below that of the ``others`` features."""
    return -math.log(max(others, 1)) - 1 / temperature


def _mean_of_sets(values: Tensor, members: Tensor) -> Tensor:
    count = members.sum(dim=1)
    rows = count > 0
    if not rows.any():
        return zero_of(values)
    kept = torch.where(members, values, torch.zeros_like(values)).sum(dim=1)
    return (kept[rows] / count[rows]).mean()

"""Contrastive losses of given similarities, one value per query, computed with logsumexp.

A similarity is a cosine or dot product of unit vectors, not yet divided by the temperature.
Everything is computed in at least float32. Shape letters: Q queries; M candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def zero_of(tensor: Tensor) -> Tensor:
    """An exact scalar 0 that is connected to ``tensor``, whose gradient it makes exactly 0."""
    return _precise(tensor).flatten()[:0].sum()


def mean_or_zero(values: Tensor) -> Tensor:
    """Mean of the values; the connected 0 of ``zero_of`` where there are none."""
    return _precise(values).mean() if values.numel() else zero_of(values)


def info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """``-log(e^(p/t) / (e^(p/t) + sum_m e^(n_m/t)))`` of each query (van den Oord et al. 2018).

    docs/methods.md#dcl-inter and docs/methods.md#compressionrelation-contrast.

    Args:
        positive: [Q] similarity of each query with its own key.
        negative: [Q, M] similarities with its negatives; M = 0 gives an exact, connected 0.

    Returns:
        [Q], >= 0.
    """
    positive, negative = _precise(positive), _precise(negative)
    if negative.shape[1] == 0:
        return positive * 0
    margin = torch.logsumexp(negative / temperature, dim=1) - positive / temperature
    return functional.softplus(margin)


def supervised_contrastive(
    similarity: Tensor,
    positives: Tensor,
    candidates: Tensor,
    temperature: float,
    extra_negatives: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean over the positives p of ``-log(e^(s_p/t) / sum_candidates e^(s/t))``, per query.

    The supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, eq. 2), and with
    ``extra_negatives`` RealCentric's margin loss (docs/methods.md#realcentric-margin):
    these enter the denominator only.

    Args:
        similarity: [Q, M].
        positives: [Q, M] bool, a subset of ``candidates``.
        candidates: [Q, M] bool, False where a candidate is the query itself.
        temperature: tau > 0.
        extra_negatives: [Q, K] similarities; None or K = 0 adds none.

    Returns:
        Loss [Q], a connected 0 for a query without positives; and bool [Q], which have some.
    """
    scaled = _precise(similarity) / temperature
    has_positive = positives.any(dim=1)
    terms = scaled.masked_fill(~candidates, -math.inf)
    if extra_negatives is not None:
        terms = torch.cat([terms, _precise(extra_negatives) / temperature], dim=1)
    # A row without any candidate would give logsumexp(-inf, ...), whose gradient is NaN
    terms = torch.where(has_positive[:, None], terms, torch.zeros_like(terms))
    log_probability = scaled - torch.logsumexp(terms, dim=1, keepdim=True)
    count = positives.sum(dim=1).clamp(min=1)
    loss = -(log_probability * positives).sum(dim=1) / count
    return loss, has_positive


def soft_cross_entropy(target_logits: Tensor, logits: Tensor) -> Tensor:
    """``-sum_m softmax(target)_m log softmax(logits)_m`` of each query: [Q].

    The target passes no gradient (docs/methods.md#compressionrelation-relation, eq. 4
    without the constant entropy of the target).

    Args:
        target_logits, logits: [Q, M], M >= 1.
    """
    target = _precise(target_logits).detach().softmax(dim=1)
    return -(target * _precise(logits).log_softmax(dim=1)).sum(dim=1)


def _precise(tensor: Tensor) -> Tensor:
    """Float32 at least; float64 stays."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()

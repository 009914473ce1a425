"""Cosine similarities, and contrastive losses of similarities computed with logsumexp.

Shape letters: Q queries; M negatives; D dimensions; F faces; C channels; S side of a face's map.
Everything is computed in float32: half precision has too few digits for similarities divided by
a small temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Below this norm a vector counts as zero; larger than torch's default of 1e-12, so that the
# gradient of an all-zero feature (bounded by 1 / eps) stays finite in float32
NORM_EPSILON = 1e-6


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """``vectors`` divided by their L2 norm along ``dim``, in float32; a zero vector stays zero."""
    return functional.normalize(vectors.float(), dim=dim, eps=NORM_EPSILON)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of vectors along the last dimension, in [-1, 1] (COMICS, eq. 3)."""
    return (unit(first) * unit(second)).sum(dim=-1)


def mean_direction(features: Tensor, region: Tensor) -> Tensor:
    """Mean of a region's unit vectors: [F, C], of norm <= 1; 0 for an empty region.

    The dot product of two such means is the mean cosine over all pairs of pixels of the two
    regions: the paper's eq. 7 with a mean for its sum, whose exponential would overflow
    (docs/methods.md#comics-region-similarity).

    Args:
        features: [F, C, S, S].
        region: [F, S, S] bool.
    """
    directions = unit(features, dim=1).flatten(2)
    weights = region.flatten(1).float()
    total = torch.einsum("fcp,fp->fc", directions, weights)
    return total / weights.sum(dim=1, keepdim=True).clamp(min=1)


def flat_nce(positive: Tensor, negative: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """FlatNCE of each query, and InfoNCE as a figure to report (docs/methods.md#comics-flatnce).

    With ``v = logsumexp((negative - positive) / temperature)``, FlatNCE is ``exp(v - sg(v))``: its
    value is always 1 and its gradient that of v. InfoNCE is ``softplus(v)``.

    Args:
        positive: [Q] similarity of each query with its own key.
        negative: [Q, M] similarities with the negatives, M >= 1.

    Returns:
        FlatNCE [Q], with gradient; InfoNCE [Q], without.

    Raises:
        ValueError: if there is no negative, for which the loss is undefined.
    """
    if negative.shape[1] == 0:
        raise ValueError("FlatNCE needs at least one negative")
    margins = (negative.float() - positive.float()[:, None]) / temperature
    value = torch.logsumexp(margins, dim=1)
    constant = value.detach()
    return torch.exp(value - constant), functional.softplus(constant)


def contrast_groups(attracted: Tensor, repelled: Tensor, temperature: float) -> Tensor:
    """Scalar ``-log(sum e^a / (sum e^a + sum e^r))``, for a, r similarities over temperature.

    Raises ``attracted`` and lowers ``repelled`` (docs/methods.md#comics-intra and #comics-inter).
    Without members of both groups it is an exact 0, still connected to what it was computed from.
    """
    if attracted.numel() == 0 or repelled.numel() == 0:
        return attracted.float().flatten()[:0].sum() + repelled.float().flatten()[:0].sum()
    attracted = torch.logsumexp(attracted.float().flatten() / temperature, dim=0)
    repelled = torch.logsumexp(repelled.float().flatten() / temperature, dim=0)
    return functional.softplus(repelled - attracted)

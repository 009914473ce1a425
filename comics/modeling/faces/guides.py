"""The geometry of the guide space: guide embeddings, and which domain goes to which guide.

docs/methods.md#guidespace-guides (3.1 and 3.2). Shape letters: n forgery domains; D dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_DIMENSIONS = 2  # one forgery guide needs a plane


def guide_embeddings(num_domains: int, dim: int, angle: float, seed: int = 0) -> Tensor:
    """The guides: unit vectors [1 + n, D] float32; row 0 is the real one.

    Every forgery guide is at ``angle`` from the real guide r; among themselves they are as far
    apart as that allows. In closed form instead of by Lagrange multipliers (eq. 1 and 2;
    docs/methods.md#guidespace-guides, reconstructed):
    ``g_k = cos(angle) r + sin(angle) w_k`` with w_k the corners of a regular
    simplex in the orthogonal complement of r (``w_i . w_j = -1 / (n - 1)``), so that
    ``g_i . g_j = cos^2 - sin^2 / (n - 1)``.

    Args:
        num_domains: n >= 1.
        dim: D >= max(n, 2).
        angle: theta in degrees, 0 < theta <= 180.
        seed: of the random orientation; the same on all processes.

    Raises:
        ValueError: for values outside these.
    """
    if num_domains < 1:
        raise ValueError(f"a guide space needs at least one forgery domain, got {num_domains}")
    if dim < max(num_domains, MIN_DIMENSIONS):
        raise ValueError(
            f"{num_domains} forgery domains need features of at least "
            f"{max(num_domains, MIN_DIMENSIONS)} dimensions, got {dim}"
        )
    if not 0 < angle <= 180:
        raise ValueError(f"the angle must be in (0, 180] degrees, got {angle}")
    generator = torch.Generator("cpu").manual_seed(seed)
    columns = max(num_domains, MIN_DIMENSIONS)
    random = torch.randn(dim, columns, generator=generator, dtype=torch.float64, device="cpu")
    axes = torch.linalg.qr(random).Q.T  # orthonormal rows
    real, corners = axes[:1], simplex(num_domains) @ axes[1:]
    theta = math.radians(angle)
    return torch.cat([real, math.cos(theta) * real + math.sin(theta) * corners]).float()


def simplex(num_corners: int) -> Tensor:
    """Corners of a regular simplex: unit vectors [n, max(n - 1, 1)] float64, of zero sum if n > 1.

    Corner k is the k-th coordinate axis of n dimensions minus their mean, in the n - 1 axes of the
    hyperplane that these lie in.
    """
    if num_corners == 1:
        return torch.ones(1, 1, dtype=torch.float64, device="cpu")
    identity = torch.eye(num_corners, dtype=torch.float64, device="cpu")
    centred = identity - 1 / num_corners
    # Columns 2..n of an orthogonal matrix whose first column is along (1, ..., 1)
    frame = torch.linalg.qr(torch.cat([torch.ones_like(identity[:, :1]), identity[:, 1:]], 1)).Q
    corners = centred @ frame[:, 1:]
    return corners / corners.norm(dim=1, keepdim=True)


def match_domains(means: Tensor, known: Tensor, guides: Tensor) -> Tensor:
    """Guide of each forgery domain, by the Hungarian algorithm: [n] int64, a permutation.

    The sum of squared distances between mean features and guides is minimal; a domain that has
    never been seen costs the same everywhere.

    Args:
        means: [n, D].
        known: [n] bool.
        guides: [n, D], the forgery guides.
    """
    # In training only, and it takes a second to import
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(means.double(), guides.double()).square()
    cost = torch.where(known[:, None], cost, torch.zeros_like(cost))
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    assignment = torch.empty(len(means), dtype=torch.int64)
    assignment[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return assignment.to(means.device)

"""Past features with the forgery domain and content cluster of each: set F.

docs/methods.md#guidespace-guide-loss.

Shape letters: B samples of a batch on this process; n of all processes; M rows of the bank;
D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from comics.modeling.bank import RingBuffer, gather_rows


@dataclass(frozen=True)
class LabelledFeatures:
    """What the bank holds, oldest first.

    Attributes:
        features: [M, D] unit vectors, without gradient.
        domains: [M] int64.
        clusters: [M] int64, -1 unknown.
        own: [B, M] bool: row m is sample b of this process's batch itself.
    """

    features: Tensor
    domains: Tensor
    clusters: Tensor
    own: Tensor


class FeatureBank(nn.Module):
    """First in, first out memory of labelled features.

    Args:
        size: rows at most; at least the batch of all processes.
        dim: D.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.features = RingBuffer(size, dim)
        self.labels = RingBuffer(size, 2)  # domain, cluster: exact in float32 up to 2^24

    def push(self, features: Tensor, domains: Tensor, clusters: Tensor) -> LabelledFeatures:
        """Append the batches [B, D] of all processes, then return everything held.

        Raises:
            ValueError: if the batch does not fit.
        """
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        ranks = torch.full_like(domains, rank)
        rows, labels, owners = gather_rows(
            features.detach(), torch.stack([domains, clusters], dim=1), ranks
        )
        capacity = len(self.features.storage)
        if len(rows) > capacity:
            raise ValueError(f"a batch of {len(rows)} samples needs BANK_SIZE >= it, is {capacity}")
        self.features.push(rows)
        self.labels.push(labels)
        held, held_labels = self.features.rows(), self.labels.rows().long()
        own = torch.zeros(len(features), len(held), dtype=torch.bool, device=held.device)
        columns = len(held) - len(rows) + (owners == rank).nonzero().flatten()
        own[torch.arange(len(features), device=held.device), columns] = True
        return LabelledFeatures(held, held_labels[:, 0], held_labels[:, 1], own)

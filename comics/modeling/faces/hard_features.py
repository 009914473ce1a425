"""RealCentric's hard features: which are hard, and what is synthesised from them.

docs/methods.md#realcentric-positives and the sections beside it (3.4).

Shape letters: Q embeddings of a batch; H hard features; D dimensions. All features are unit
vectors of D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comics.ops.similarity import unit
from comics.structures import CLASS_NAMES, FAKE, REAL


class HardFeatureMemory(nn.Module):
    """The real centre and the global hard features of an epoch; forgets when one starts.

    The centre is the direction of the mean of all real embeddings seen in the epoch (eq. 1).
    Hard are the K reals least like it and the K fakes most like it, of all seen in the epoch.

    Args:
        size: K, per class.
        dim: D.
    """

    real_sum: Tensor
    real_count: Tensor
    hard: Tensor
    held: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("real_sum", torch.zeros(dim))
        self.register_buffer("real_count", torch.tensor(0))
        self.register_buffer("hard", torch.zeros(len(CLASS_NAMES), size, dim))
        self.register_buffer("held", torch.zeros(len(CLASS_NAMES), dtype=torch.int64))

    def reset(self) -> None:
        """Forget everything."""
        for buffer in self.buffers():
            buffer.zero_()

    def centre(self) -> Tensor | None:
        """Unit vector [D]; None before the epoch's first real."""
        return unit(self.real_sum) if self.real_count > 0 else None

    def rows(self, label: int) -> Tensor:
        """A copy of the hard features of a class, hardest first: [H, D], H <= K."""
        return self.hard[label, : int(self.held[label])].clone()

    @torch.no_grad()
    def update_centre(self, z: Tensor, labels: Tensor) -> None:
        """Add the reals of [Q, D] to the centre."""
        reals = z[labels == REAL].float()
        self.real_sum += reals.sum(dim=0)
        self.real_count += len(reals)

    @torch.no_grad()
    def update_hard(self, z: Tensor, labels: Tensor) -> None:
        """Let [Q, D] compete with the hard features held; nothing before there is a centre."""
        centre = self.centre()
        if centre is None:
            return
        for label in (REAL, FAKE):
            rivals = torch.cat([self.rows(label), z[labels == label].float()])
            likeness = rivals @ centre
            order = torch.sort(likeness, descending=label == FAKE, stable=True).indices
            kept = rivals[order[: self.hard.shape[1]]]
            self.hard[label, : len(kept)] = kept
            self.held[label] = len(kept)


def smooth(hard: Tensor, batch: Tensor, neighbours: int) -> Tensor:
    """``norm((h + sum of its nearest) / (1 + m))`` of each hard feature (eq. 2, reconstructed).

    Args:
        hard: [H, D].
        batch: [Q, D] features of the same class; where there are fewer than ``neighbours``, all
            of them are taken, and without any there is no result.
        neighbours: m.

    Returns:
        [H, D], or [0, D].
    """
    m = min(neighbours, len(batch))
    if m == 0 or len(hard) == 0:
        return batch[:0]
    nearest = (hard @ batch.T).topk(m, dim=1).indices
    return unit((hard + batch[nearest].sum(dim=1)) / (1 + m))


def mix(anchors: Tensor, batch: Tensor, neighbours: int, beta: float) -> Tensor:
    """``norm(c z + (1 - c) n)`` of each anchor with each of its nearest, c ~ Beta(b, b) (eq. 3).

    Args:
        anchors: [H, D].
        batch: [Q, D]; all are taken where there are fewer than ``neighbours``.
        neighbours: s.
        beta: b > 0; below 1 the density is U-shaped.

    Returns:
        [H * s, D], the neighbours of the first anchor first.
    """
    s = min(neighbours, len(batch))
    if s == 0 or len(anchors) == 0:
        return batch[:0]
    nearest = batch[(anchors @ batch.T).topk(s, dim=1).indices]
    shape = torch.full(nearest.shape[:2], float(beta), device=anchors.device)
    share = torch.distributions.Beta(shape, shape).sample()[..., None]
    return unit(share * anchors[:, None] + (1 - share) * nearest).flatten(0, 1)

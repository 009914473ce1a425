"""Memory of past keys: ring buffers, class prototypes, and what keeps them equal on all processes.

All state lives in buffers, so checkpoints hold it. Shape letters: n keys; K classes; D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from comics.ops.similarity import unit
from comics.ops.transfers import on_device, on_host

MINING_RULES = ("own", "cross")
UPDATE_RULES = ("proposal", "batch")


class RingBuffer(nn.Module):
    """First in, first out memory of rows; starts empty, holds the newest ``size`` rows.

    Args:
        size: rows at most.
        dim: length of a row.

    Raises:
        ValueError: if ``size`` is not positive.
    """

    storage: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a ring buffer needs room for at least one row, got size {size}")
        self.register_buffer("storage", torch.zeros(size, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # since the start
        self._known: int | None = 0  # the same, on the host; None: to be read

    def __len__(self) -> int:
        """Rows held."""
        return min(self._count(), len(self.storage))

    def rows(self) -> Tensor:
        """A copy of the rows held, oldest first: [len, D].

        A copy, because a loss computed from them must survive the next ``push``.
        """
        pushed, size = self._count(), len(self.storage)
        if pushed <= size:
            return self.storage[:pushed].clone()
        return self.storage.roll(-(pushed % size), dims=0)

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Append rows [n, D]; the oldest give way, and of more than ``size`` the last stay."""
        size = len(self.storage)
        first = self._count() + max(len(rows) - size, 0)
        kept = rows[-size:]
        index = torch.arange(first, first + len(kept), device=self.storage.device) % size
        self.storage[index] = kept.detach().to(self.storage)
        self.pushed += len(rows)
        self._known = self._count() + len(rows)

    def _count(self) -> int:
        """Rows pushed since the start, without asking the device for what the host has counted."""
        if self._known is None:
            self._known = int(self.pushed)
        return self._known

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._known = None


class Prototypes(nn.Module):
    """One moving mean direction per class (docs/methods.md#comics-prototypes).

    Args:
        num_classes: K.
        dim: D.
        momentum: alpha; the share of the old prototype in the new one.
        update: "proposal": one step per key, in order (COMICS, eq. 2); "batch": one step with the
            mean of the keys.

    Raises:
        ValueError: for another update rule.
    """

    vectors: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, dim: int, momentum: float, update: str = "batch") -> None:
        super().__init__()
        if update not in UPDATE_RULES:
            raise ValueError(f"PROTOTYPE_UPDATE must be one of {UPDATE_RULES}, got {update!r}")
        self.momentum = momentum
        self.per_key = update == "proposal"
        self.register_buffer("vectors", torch.zeros(num_classes, dim))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, label: int, keys: Tensor) -> None:
        """Move a prototype by keys [n, D], to unit length; without keys it stays.

        ``p <- alpha p + (1 - alpha) k_j`` for j = 1 ... n, which is ``alpha^n p + (1 - alpha)
        sum_j alpha^(n - j) k_j``; or one such step with the mean of the keys. What comes first of
        a class, key or mean, sets its prototype outright (decision): there is nothing older.
        """
        if len(keys) == 0:
            return
        steps = keys.float() if self.per_key else keys.float().mean(dim=0, keepdim=True)
        exponents = torch.arange(len(steps), device=steps.device).flip(0)
        weights = (1 - self.momentum) * self.momentum**exponents
        # Where nothing is older, and the prototype still 0, the first one keeps its full weight
        outright = torch.full_like(weights[0], self.momentum ** (len(steps) - 1))
        weights[0] = torch.where(self.seen[label], weights[0], outright)
        self.vectors[label] = unit(
            self.momentum ** len(steps) * self.vectors[label] + weights @ steps
        )
        self.seen[label] = True


class ClassBanks(nn.Module):
    """A ring buffer and a prototype per class, filled with the hardest keys of each step.

    Args:
        num_classes: K; 2 where ``mining`` is "cross".
        size: keys per class at most.
        dim: D.
        momentum: alpha of the prototypes.
        per_step: keys per class that one step may add.
        mining: "own": the keys least like the prototype of their class (COMICS, IV-B);
            "cross": those most like the other class's (as DCL;
            docs/methods.md#comics-banks), in order of arrival while the other class has never
            been seen.
        update: see ``Prototypes``.

    Raises:
        ValueError: for another rule.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        size: int,
        dim: int,
        momentum: float,
        per_step: int,
        mining: str = "own",
        update: str = "batch",
    ) -> None:
        super().__init__()
        if mining not in MINING_RULES:
            raise ValueError(f"mining must be one of {MINING_RULES}, got {mining!r}")
        if mining == "cross" and num_classes != 2:
            raise ValueError(f"mining 'cross' is for two classes, got {num_classes}")
        self.per_step = per_step
        self.mining = mining
        self.banks = nn.ModuleList(RingBuffer(size, dim) for _ in range(num_classes))
        self.prototypes = Prototypes(num_classes, dim, momentum, update)

    def rows(self, label: int) -> Tensor:
        """A copy of the keys held for a class, oldest first: [len, D]."""
        return cast(RingBuffer, self.banks[label]).rows()

    @torch.no_grad()
    def update(self, keys: Tensor, labels: Tensor) -> None:
        """Move the prototypes by all keys, then append each class's hardest ones.

        A class without keys keeps its bank and its prototype.

        Args:
            keys: [n, D] unit vectors, finite, the same on every process.
            labels: [n] class of each key.
        """
        known = on_host(labels)[0]
        rows = [on_device(np.flatnonzero(known == c), keys.device) for c in range(len(self.banks))]
        self.update_groups([keys[chosen] for chosen in rows])

    @torch.no_grad()
    def update_groups(self, groups: Sequence[Tensor]) -> None:
        """``update`` with the keys [n, D] of each class."""
        for label, group in enumerate(groups):
            self.prototypes.update(label, group)
        chosen = [self._hardest(label, group) for label, group in enumerate(groups)]
        for bank, rows in zip(self.banks, chosen, strict=True):
            cast(RingBuffer, bank).push(rows)

    def _hardest(self, label: int, keys: Tensor) -> Tensor:
        if len(keys) <= self.per_step:
            return keys
        reference = label if self.mining == "own" else 1 - label
        likeness = keys @ self.prototypes.vectors[reference].to(keys)
        descending = self.mining == "cross"
        order = torch.sort(likeness, descending=descending, stable=True).indices
        return keys[order[: self.per_step]]


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Rows of every process, in the order of ranks; the inputs themselves in a single process.

    Every process must call it, with tensors of its own number of rows (0 allowed), the same
    for all tensors of a call. No gradient passes.

    Args:
        tensors: [n, ...] each.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensors
    own = on_device([len(tensors[0])], tensors[0].device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    lengths = torch.cat(counts).tolist()
    return tuple(_gather_padded(tensor.detach(), lengths) for tensor in tensors)


def _gather_padded(tensor: Tensor, lengths: list[int]) -> Tensor:
    """``all_gather`` wants equal shapes: pad to the longest, gather, cut."""
    longest = max(lengths)
    if longest == 0:
        return tensor
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:n] for rows, n in zip(gathered, lengths, strict=True)])

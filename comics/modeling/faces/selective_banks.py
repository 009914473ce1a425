"""Banks that take a key only if it is hard to tell from the other class (3.3 of DCL).

Shape letters: n keys; D dimensions.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from comics.modeling.bank import Prototypes, RingBuffer
from comics.ops.similarity import cosine
from comics.structures import CLASS_NAMES

SELECTION_RULES = ("threshold", "topk", "all")


class SelectiveBanks(nn.Module):
    """A ring buffer and a prototype for reals, and for fakes.

    Args:
        size: keys per class at most.
        dim: D.
        momentum: alpha of the prototypes (eq. 4 and 5).
        select: "threshold": keys whose cosine with the other class's prototype exceeds
            ``threshold`` (eq. 6); "topk": the ``topk`` keys of a step with the largest one (public
            code; docs/methods.md#dcl-selection); "all": every key, no selection (Table 5).
            While the other class has no prototype, the first two rules take nothing.

    Raises:
        ValueError: for another rule.
    """

    def __init__(
        self, *, size: int, dim: int, momentum: float, select: str, threshold: float, topk: int
    ) -> None:
        super().__init__()
        if select not in SELECTION_RULES:
            raise ValueError(f"DCL.SELECT must be one of {SELECTION_RULES}, got {select!r}")
        self.dim = dim
        self.select = select
        self.threshold = threshold
        self.topk = topk
        self.banks = nn.ModuleList(RingBuffer(size, dim) for _ in CLASS_NAMES)
        self.prototypes = Prototypes(len(CLASS_NAMES), dim, momentum)

    def rows(self) -> list[Tensor]:
        """A copy of the keys of reals, and of fakes, oldest first."""
        return [cast(RingBuffer, bank).rows() for bank in self.banks]

    @torch.no_grad()
    def update(self, keys: Tensor, labels: Tensor) -> None:
        """Move both prototypes by the keys [n, D] of labels [n], then append the hard ones.

        The prototypes are kept at unit length: only their direction is used (decision).
        """
        for label in range(len(self.banks)):
            self.prototypes.update(label, keys[labels == label])
        for label, bank in enumerate(self.banks):
            cast(RingBuffer, bank).push(self._hard(keys[labels == label], 1 - label))

    def _hard(self, keys: Tensor, other: int) -> Tensor:
        if self.select == "all":
            return keys
        if not self.prototypes.seen[other]:
            return keys[:0]
        likeness = cosine(keys, self.prototypes.vectors[other])
        if self.select == "threshold":
            return keys[likeness > self.threshold]
        order = torch.sort(likeness, descending=True, stable=True).indices
        return keys[order[: self.topk]]

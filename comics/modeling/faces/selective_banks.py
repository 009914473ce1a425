"""Banks that take a key only if it is hard to tell from the other class (3.3 of DCL).

Shape letters: n keys; D dimensions.
"""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn

from comics.modeling.bank import Prototypes, RingBuffer
from comics.ops.similarity import cosine
from comics.structures import CLASS_NAMES

logger = logging.getLogger(__name__)

SELECTION_RULES = ("threshold", "topk", "all")
# Shares of keys that a threshold may accept before it is said to select nothing (decision), and of
# how many keys the share is taken: more than a step has
ACCEPTANCE_RANGE = (0.02, 0.98)
ACCEPTANCE_KEYS = 1000


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
        self._counts = [0, 0]  # keys offered and accepted since the last look at their share
        self._warned = False
        self.banks = nn.ModuleList(RingBuffer(size, dim) for _ in CLASS_NAMES)
        self.prototypes = Prototypes(len(CLASS_NAMES), dim, momentum)

    def rows(self) -> list[Tensor]:
        """A copy of the keys of reals, and of fakes, oldest first."""
        return [cast(RingBuffer, bank).rows() for bank in self.banks]

    @torch.no_grad()
    def update(self, keys: Tensor, labels: Tensor) -> float | None:
        """Move both prototypes by the keys [n, D] of labels [n], then append the hard ones.

        The prototypes are kept at unit length: only their direction is used (decision). A
        threshold that accepts nearly every key, or none, is warned of once.

        Returns:
            The share of the keys that was appended; None for no keys.
        """
        accepted = 0
        for label in range(len(self.banks)):
            self.prototypes.update(label, keys[labels == label])
        for label, bank in enumerate(self.banks):
            hard = self._hard(keys[labels == label], 1 - label)
            cast(RingBuffer, bank).push(hard)
            accepted += len(hard)
        if len(keys) == 0:
            return None
        self._watch(len(keys), accepted)
        return accepted / len(keys)

    def _watch(self, offered: int, accepted: int) -> None:
        """Count keys; warn, once, of a threshold that does not select."""
        if self.select != "threshold" or self._warned:
            return
        self._counts = [self._counts[0] + offered, self._counts[1] + accepted]
        if self._counts[0] < ACCEPTANCE_KEYS:
            return
        share = self._counts[1] / self._counts[0]
        self._counts = [0, 0]
        if not ACCEPTANCE_RANGE[0] <= share <= ACCEPTANCE_RANGE[1]:
            self._warned = True
            logger.warning(
                "DCL.SELECT_THRESHOLD %g accepts %.1f %% of the keys: it selects no hard ones. "
                'Another threshold, or SELECT "topk", does (docs/methods.md#dcl-selection)',
                self.threshold,
                100 * share,
            )

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

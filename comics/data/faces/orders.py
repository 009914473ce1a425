"""Which faces make which batch: both classes alike, and sources by given shares, in pairs.

Each order is one endless list of global batches, fixed by the seed and the set, as in
``comics.data.loader``. Shape letters: N faces; B faces of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from comics.data.dataset import ORDER
from comics.data.loader import TrainingOrder
from comics.structures import FAKE, REAL


class BalancedOrder(TrainingOrder):
    """The endless list of global batches with as many reals as fakes in each.

    Real and fake take turns in a batch, so the part of every rank is balanced too; of an odd
    batch the last face is a fake. An epoch has as many batches as without balance: the rarer
    class is repeated, always by whole permutations, and of the other one some are left out.
    ``groups`` holds the labels.
    """

    def epoch(self, number: int) -> np.ndarray:
        """[batches_per_epoch, batch_size] indices of rows."""
        rng = np.random.default_rng((self.seed, ORDER, number))
        batches = np.empty((self.batches_per_epoch, self.batch_size), np.int64)
        fake_places = np.arange(self.batch_size) % 2 == 1
        if self.batch_size % 2:
            fake_places[-1] = True
        for label, places in ((REAL, ~fake_places), (FAKE, fake_places)):
            members = np.flatnonzero(self.groups == label)
            drawn = _cycled(members, self.batches_per_epoch * int(places.sum()), rng)
            batches[:, places] = drawn.reshape(self.batches_per_epoch, -1)
        return batches


class UndersampledOrder(BalancedOrder):
    """``BalancedOrder`` whose epoch is one pass over the rarer class, of which none is repeated.

    Of the other class each epoch takes other faces. A class with fewer faces than its places in
    one batch is still repeated to fill that.
    """

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in one epoch."""
        fakes = (self.batch_size + 1) // 2
        places = {REAL: self.batch_size - fakes, FAKE: fakes}
        counts = [
            int((self.groups == label).sum()) // number
            for label, number in places.items()
            if number
        ]
        return max(1, min(counts))


@dataclass(frozen=True)
class SharedOrder(TrainingOrder):
    """Batches of pairs of a real and a forged face of one source, sources by their shares.

    A batch holds a pair after the other, the real face first; every batch has the same number of
    pairs of a source but for one, whatever the sizes of the sources. A source of one class gives
    pairs of that class. The real face of a pair is, with probability ``paired``, one of the forged
    one's own scene (of the clip or photo that the forgery was made from), if there is one.

    Attributes:
        groups: [N] labels.
        sources: [N] number of each face's source.
        scenes: [N] number of its scene, -1 for unknown.
        shares: of each source in a batch, any positive scale.
        paired: probability of a pair of one scene.

    Raises:
        ValueError: for an odd batch, shares that are not positive, or a source without a face.
    """

    sources: np.ndarray
    scenes: np.ndarray
    shares: tuple[float, ...]
    paired: float

    def __post_init__(self) -> None:
        if self.batch_size % 2:
            raise ValueError(f"pairs need an even SOLVER.IMS_PER_BATCH, got {self.batch_size}")
        if not all(share > 0 for share in self.shares):
            raise ValueError(f"DATASETS.TRAIN_SHARES must be positive, got {list(self.shares)}")
        absent = sorted(set(range(len(self.shares))) - set(np.unique(self.sources).tolist()))
        if absent:
            raise ValueError(f"entry {absent[0]} of DATASETS.TRAIN has no face, but a share")

    def epoch(self, number: int) -> np.ndarray:
        """[batches_per_epoch, batch_size] indices of rows."""
        rng = np.random.default_rng((self.seed, ORDER, number))
        of_slots = self._slots(rng)
        pairs = np.empty((*of_slots.shape, 2), np.int64)
        for source in range(len(self.shares)):
            places = of_slots == source
            pairs[places] = self._pairs(source, int(places.sum()), rng)
        return pairs.reshape(self.batches_per_epoch, self.batch_size)

    def _slots(self, rng: np.random.Generator) -> np.ndarray:
        """[batches_per_epoch, B / 2] source of each pair, by systematic sampling per batch."""
        count = self.batch_size // 2
        bounds = np.cumsum(self.shares) / np.sum(self.shares)
        starts = rng.random((self.batches_per_epoch, 1))
        places = (np.arange(count) + starts) / count
        found = np.searchsorted(bounds, places, side="right")
        return np.minimum(found, len(self.shares) - 1)

    def _pairs(self, source: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """[count, 2] real and forged face of each pair."""
        members = np.flatnonzero(self.sources == source)
        real, fake = (members[self.groups[members] == label] for label in (REAL, FAKE))
        first, second = (real if len(real) else fake), (fake if len(fake) else real)
        pairs = np.stack([_cycled(first, count, rng), _cycled(second, count, rng)], axis=1)
        if not len(real) or not len(fake):
            return pairs
        of_scene: dict[int, list[int]] = defaultdict(list)
        for row in real.tolist():
            of_scene[int(self.scenes[row])].append(row)
        of_scene.pop(-1, None)
        for pair in np.flatnonzero(rng.random(count) < self.paired):
            found = of_scene.get(int(self.scenes[pairs[pair, 1]]))
            if found:
                pairs[pair, 0] = found[rng.integers(len(found))]
        return pairs


def _cycled(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] members by whole permutations, one after the other."""
    repeats = max(-(-count // len(members)), 1)
    return np.concatenate([rng.permutation(members) for _ in range(repeats)])[:count]

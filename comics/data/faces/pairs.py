"""Which rows of a manifest belong together: frames of a clip, compressions, identities.

Every table is made once, of sorted arrays; a look-up is a binary search. Rows of another
compression are never partners, except where a compression is asked for.

Shape letters: N rows; G groups.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from comics.data.faces.manifest import UNKNOWN, Manifest
from comics.structures import REAL

LEVELS = ("image", "temporal", "semantic", "class")  # of MODEL.FACE.REAL_CENTRIC.PAIRING


class Groups:
    """Rows with the same key; rows with a negative number in their key belong to no group."""

    def __init__(self, *columns: np.ndarray, order_by: np.ndarray | None = None) -> None:
        keys = np.stack([np.asarray(column, np.int64) for column in columns], axis=1)
        rows = np.flatnonzero((keys >= 0).all(axis=1))
        by = np.zeros(len(keys), np.int64) if order_by is None else order_by
        self.rows = rows[np.lexsort((by[rows], *keys[rows].T[::-1]))]
        changes = (np.diff(keys[self.rows], axis=0) != 0).any(axis=1)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(self.rows)]])
        self.starts = starts if len(self.rows) else np.zeros(1, np.int64)
        self._group = np.full(len(keys), UNKNOWN, np.int64)
        self._group[self.rows] = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def of(self, row: int) -> np.ndarray:
        """The group of a row, itself included, in order; empty if it belongs to none."""
        group = self._group[row]
        if group == UNKNOWN:
            return self.rows[:0]
        return self.rows[self.starts[group] : self.starts[group + 1]]


class PairIndex:
    """Partners of the rows of a manifest; a partner is a row's number, or None."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        # Unknown compression is a level of its own
        self._level = manifest.codes["compression"] + 1
        self._video = manifest.codes["video"]
        self._labels = manifest.labels

    @cached_property
    def _clips(self) -> Groups:
        return Groups(self._video, self._level, order_by=self._manifest.frames)

    @cached_property
    def _frames(self) -> Groups:
        return Groups(self._video, self._manifest.frames)

    @cached_property
    def _by_source(self) -> Groups:
        return Groups(self._labels, self._level, self._manifest.codes["source"])

    @cached_property
    def _by_target(self) -> Groups:
        return Groups(self._labels, self._level, self._manifest.codes["target"])

    @cached_property
    def _by_class(self) -> Groups:
        return Groups(self._labels, self._level)

    def has_clips(self) -> bool:
        """Whether any clip has two rows."""
        return bool((np.diff(self._clips.starts) > 1).any())

    def other_frame(self, row: int, rng: np.random.Generator) -> int | None:
        """Another row of the same clip: DCL's frame shift, CompressionRelation's x'."""
        clip = self._clips.of(row)
        return _draw(clip[clip != row], rng)

    def near_frame(self, row: int, reach: int, rng: np.random.Generator) -> int | None:
        """A row of the same clip at most ``reach`` sampled frames away: the temporal level."""
        clip = self._clips.of(row)
        if len(clip) < 2:
            return None
        place = int(np.flatnonzero(clip == row)[0])
        near = clip[max(0, place - reach) : place + reach + 1]
        return _draw(near[near != row], rng)

    def preceding(self, row: int, count: int) -> list[int]:
        """Rows of at most ``count`` frames directly before a row's own in its clip, oldest first.

        Only frames whose numbers follow one another: sampled frames of a clip are no clip.
        """
        clip, frames = self._clips.of(row), self._manifest.frames
        if count < 1 or len(clip) < 2 or frames[row] == UNKNOWN:
            return []
        place = int(np.flatnonzero(clip == row)[0])
        found: list[int] = []
        for back in range(1, min(count, place) + 1):
            other = int(clip[place - back])
            if frames[other] != frames[row] - back:
                break
            found.insert(0, other)
        return found

    def semantic(self, row: int, rng: np.random.Generator) -> int | None:
        """RealCentric's semantic level (docs/papers.md#realcentric, 3.2).

        A fake: a fake of another clip with the same source or the same target. A real face: one
        of the same identity in another clip.
        """
        related = self._by_target.of(row)
        if self._labels[row] != REAL:
            related = np.union1d(related, self._by_source.of(row))
        video = self._video[row]
        # Rows without a clip are clips of their own
        other = (self._video[related] != video) | (video == UNKNOWN)
        return _draw(related[other & (related != row)], rng)

    def same_class(self, row: int, rng: np.random.Generator) -> int | None:
        """Any other row of the same label: plain supervised contrast."""
        members = self._by_class.of(row)
        if len(members) < 2:
            return None
        # Without a copy of a group as large as the set
        place = int(np.searchsorted(members, row))
        drawn = int(rng.integers(len(members) - 1))
        return int(members[drawn + (drawn >= place)])

    def at_compression(self, row: int, level: str) -> int | None:
        """The same frame of the same clip at another compression."""
        levels = self._manifest.names["compression"]
        if level not in levels:
            return None
        wanted = levels.index(level) + 1
        copies = self._frames.of(row)
        found = copies[self._level[copies] == wanted]
        return int(found[0]) if len(found) else None


def _draw(rows: np.ndarray, rng: np.random.Generator) -> int | None:
    return int(rows[rng.integers(len(rows))]) if len(rows) else None

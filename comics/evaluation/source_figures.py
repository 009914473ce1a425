"""What is said of faces, source by source: a mean over sources hides the one that fails.

A source is a set of faces of one origin: a challenge's clips, a generator's faces and the photos
that it learned from, a project's own forgeries. Here one threshold is chosen that holds on every
one of them, and figures are given for each, under every condition that it was measured in.

Shape letters: N measured faces; a face measured under several conditions counts as several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from comics.evaluation.calibration import Calibration, fit_temperature
from comics.evaluation.classification import auc, bootstrap_interval
from comics.evaluation.verdict_figures import Figure, least_threshold

MIN_REALS = 20  # of a source under a condition, for a threshold to be chosen on them


@dataclass(frozen=True)
class SourceRows:
    """Measured faces.

    Attributes:
        labels: [N] 0 real, 1 fake.
        fake_probability: [N] in [0, 1].
        sources, conditions, methods: [N] names; the method of a real face is its own.
        groups: [N] what is drawn as a whole in intervals: a clip, a photo.
    """

    labels: np.ndarray
    fake_probability: np.ndarray
    sources: np.ndarray
    conditions: np.ndarray
    methods: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]]) -> SourceRows:
        """From one mapping per face, with the names of the attributes in the singular."""
        keys = ("label", "fake_probability", "source", "condition", "method", "group")
        return cls(*(np.array([row[key] for row in rows]) for key in keys))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> SourceRows:
        return SourceRows(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def parts(self) -> dict[tuple[str, str], SourceRows]:
        """The faces of each (source, condition), in the order in which they come first."""
        names = dict.fromkeys(zip(self.sources.tolist(), self.conditions.tolist(), strict=True))
        return {
            name: self[(self.sources == name[0]) & (self.conditions == name[1])] for name in names
        }


def threshold_of_all(
    rows: SourceRows, false_alarm_rate: float
) -> tuple[float, dict[tuple[str, str], float]]:
    """The least P(fake) that at most this share of real faces reaches on every source.

    Returns:
        The threshold, and the one that each (source, condition) alone would need; those with fewer
        than ``MIN_REALS`` real faces are left out.

    Raises:
        ValueError: if no source has so many real faces.
    """
    needed = {}
    for name, part in rows.parts().items():
        real = part.fake_probability[part.labels == 0]
        if len(real) >= MIN_REALS:
            needed[name] = least_threshold(real, int(np.floor(false_alarm_rate * len(real))))
    if not needed:
        raise ValueError(f"no source has {MIN_REALS} real faces: there is no threshold to choose")
    return max(needed.values()), needed


def unclear_below(rows: SourceRows, fake_threshold: float, share: float) -> float:
    """How far under the threshold P(fake) is unclear: as far as the sources allow.

    The largest d so that on every source and under every condition, of those with ``MIN_REALS``
    real faces, at most this share of the faces has P(fake) from ``fake_threshold - d`` up to, but
    without, ``fake_threshold``. Faces that are called real are then the clearer ones, and no more
    are called forged.
    """
    lowest = 0.0
    for part in rows.parts().values():
        if (part.labels == 0).sum() < MIN_REALS:
            continue
        under = part.fake_probability[part.fake_probability < fake_threshold]
        lowest = max(lowest, least_threshold(under, int(np.floor(share * len(part)))))
    return fake_threshold - min(lowest, fake_threshold)


@dataclass(frozen=True)
class CoveragePoint:
    """What an unclear band costs and what it brings.

    Attributes:
        below: P(fake) from ``fake_threshold - below`` up to the threshold is unclear.
        coverage: share of the faces that are called real or forged, mean over sources.
        error: of those, the share that is wrong, real and forged faces counting alike, mean over
            sources.
        worst_error: the same of the source where it is highest.
    """

    below: float
    coverage: float
    error: float
    worst_error: float


def coverage_curve(
    rows: SourceRows, fake_threshold: float, shares: Sequence[float]
) -> list[CoveragePoint]:
    """Error against coverage: one point per share of faces that may be unclear.

    Each share gives the band of ``unclear_below``; sources count alike, and each (source,
    condition) is one.
    """
    points = []
    for share in shares:
        below = unclear_below(rows, fake_threshold, share)
        covered, errors = [], []
        for part in rows.parts().values():
            called = part.fake_probability >= fake_threshold
            decided = called | (part.fake_probability < fake_threshold - below)
            covered.append(decided.mean())
            wrong = [(called != (label == 1))[decided & (part.labels == label)] for label in (0, 1)]
            errors.append(np.mean([values.mean() for values in wrong if len(values)] or [0.0]))
        points.append(
            CoveragePoint(below, float(np.mean(covered)), float(np.mean(errors)), max(errors))
        )
    return points


def temperature_of_all(rows: SourceRows, seed: int = 0) -> Calibration:
    """Temperature of P(fake) on faces in which every source and class counts alike.

    As many faces of each class are drawn, with repetition, from each source that has both.

    Raises:
        ValueError: if no source has both classes, or as ``fit_temperature``.
    """
    rng = np.random.default_rng(seed)
    cells = []
    for source in dict.fromkeys(rows.sources.tolist()):
        own = rows.sources == source
        classes = [np.flatnonzero(own & (rows.labels == label)) for label in (0, 1)]
        if all(map(len, classes)):
            cells += classes
    if not cells:
        raise ValueError("no source has real and forged faces: there is no temperature to fit")
    count = max(map(len, cells))
    drawn = np.concatenate([rng.choice(cell, count) for cell in cells])
    return fit_temperature(rows.labels[drawn], rows.fake_probability[drawn])


def source_figures(
    rows: SourceRows, fake_threshold: float, below: float = 0.0, above: float = 0.0
) -> dict[str, Figure]:
    """AUC, real and forged faces called forged, and unclear ones, of the faces given.

    A face is unclear from ``fake_threshold - below`` up to, but without, ``fake_threshold + above``
    and then called neither; of other doubts nothing is known here. Intervals are bootstrapped over
    groups.
    """
    called = (rows.fake_probability >= fake_threshold + above).astype(float)
    unclear = (rows.fake_probability >= fake_threshold - below) & (called == 0)
    real = rows.labels == 0
    return {
        "AUC": _figure(auc, rows.labels, rows.fake_probability, rows.groups),
        "real called forged": _share(called[real], rows.groups[real]),
        "forged called forged": _share(called[~real], rows.groups[~real]),
        "unclear": _share(unclear.astype(float), rows.groups),
    }


def method_figures(
    rows: SourceRows, fake_threshold: float, below: float = 0.0, above: float = 0.0
) -> dict[str, dict[str, Figure]]:
    """``source_figures`` of all real faces with the forged ones of each method."""
    names = dict.fromkeys(rows.methods[rows.labels == 1].tolist())
    real = rows.labels == 0
    return {
        name: source_figures(rows[real | (rows.methods == name)], fake_threshold, below, above)
        for name in names
    }


def by_group(rows: SourceRows) -> SourceRows:
    """One row per group and label: the mean P(fake) of its faces, such as a clip's frames."""
    keys = dict.fromkeys(zip(rows.groups.tolist(), rows.labels.tolist(), strict=True))
    kept, means = [], []
    for group, label in keys:
        members = np.flatnonzero((rows.groups == group) & (rows.labels == label))
        kept.append(members[0])
        means.append(rows.fake_probability[members].mean())
    result = rows[np.array(kept, int)]
    return SourceRows(
        **{f.name: getattr(result, f.name) for f in fields(result)}
        | {"fake_probability": np.array(means)}
    )


def _share(values: np.ndarray, groups: np.ndarray) -> Figure:
    if not len(values):
        return Figure(np.nan, np.nan, np.nan, 0)
    zeros = np.zeros(len(values), np.int64)
    return _figure(lambda _, scores: float(scores.mean()), zeros, values, groups)


def _figure(
    metric: Callable[[np.ndarray, np.ndarray], float],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
) -> Figure:
    value = metric(labels, scores)
    if np.isnan(value):
        return Figure(np.nan, np.nan, np.nan, 0)
    low, high = bootstrap_interval(metric, labels, scores, groups.tolist())
    return Figure(float(value), low, high, len(labels))

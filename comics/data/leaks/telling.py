"""Whether a label can be told from properties: cross-validated AUC, its interval, and chance.

A small decision tree (a forest for all properties together) learns on four fifths of the groups
and is tried on the rest. Its AUC is 0.5 where nothing is told. In a small set it is higher by
chance, and many properties are tried: so the same is done with labels shuffled between groups, and
only what is beyond that counts as a leak.

Shape letters: N faces; K numbers; G groups; F folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.tree import DecisionTreeClassifier

from comics.data.leaks.properties import PropertyTable
from comics.structures import FAKE, REAL

LIMIT = 0.6  # an AUC above it is worth a warning
FOLDS = 5
LEAST_GROUPS = 10  # of each label; with fewer nothing can be said
SHUFFLES = (10, 40)  # trials with shuffled labels: few tell a plain leak, else there are more
RESAMPLES = 200  # of groups, for the interval
ERROR_RATE = 0.05  # of a false warning, over all properties of a set together
DEPTH, TREES = 5, 10
ALL, SET = "all properties", "set"  # names beside those of properties


@dataclass(frozen=True)
class Telling:
    """How well one property tells the labels of a set.

    Attributes:
        part: the set; "" for all faces.
        name: of the property.
        auc: cross-validated, 0.5 = not at all.
        low, high: 95 % interval of ``auc``, over groups.
        leaks: ``auc`` is above the limit, and beyond chance.
    """

    part: str
    name: str
    auc: float
    low: float
    high: float
    leaks: bool

    def __str__(self) -> str:
        mark = "LEAK" if self.leaks else ""
        return f"{mark:4s}  {self.auc:.2f}  {self.low:.2f}-{self.high:.2f}  {self.name}"


@dataclass(frozen=True)
class PartLeaks:
    """What tells the labels of a part: a set, or all sets mixed.

    Attributes:
        part: name of the set; "" for all faces.
        faces, groups: how many were looked at.
        tellings: by property; empty where ``too_few`` says why.
        too_few: why nothing can be said, or "".
    """

    part: str
    faces: int
    groups: int
    tellings: tuple[Telling, ...]
    too_few: str = ""


def find_leaks(table: PropertyTable, *, limit: float = LIMIT, seed: int = 0) -> list[PartLeaks]:
    """All faces, and where there are several sets each of them.

    Of all faces the set is a property too: if one set is mostly forged, whatever tells the set
    tells the label.
    """
    names = sorted(set(table.sets.tolist()))
    everything = np.ones(len(table.labels), dtype=bool)
    if len(names) < 2:
        return [_part(table, names[0] if names else "", everything, limit, seed)]
    parts = [_part(table, name, table.sets == name, limit, seed) for name in names]
    return [*parts, _part(table, "", everything, limit, seed)]


def _part(
    table: PropertyTable, part: str, chosen: np.ndarray, limit: float, seed: int
) -> PartLeaks:
    labels, groups = table.labels[chosen], table.groups[chosen]
    values = {name: column[chosen] for name, column in table.values.items()}
    groups = np.unique(groups, return_inverse=True)[1]
    total = int(groups.max()) + 1 if len(groups) else 0
    for label, name in ((REAL, "real"), (FAKE, "forged")):
        count = len(np.unique(groups[labels == label]))
        if count < LEAST_GROUPS:
            why = f"{count} groups with {name} faces; {LEAST_GROUPS} are needed"
            return PartLeaks(part, len(labels), total, (), why)
    known = sorted(set(table.sets[chosen].tolist()))
    if len(known) > 1:
        codes = np.searchsorted(np.array(known), table.sets[chosen].astype(str))
        values[SET] = codes[:, None].astype(np.float64)
    properties = {n: v for n, v in values.items() if (v != v[:1]).any()}
    if len(properties) > 1:
        properties[ALL] = np.concatenate(list(properties.values()), axis=1)
    alpha = ERROR_RATE / max(1, len(properties))
    tellings = [
        _telling(part, name, features, labels, groups, limit, alpha, seed)
        for name, features in properties.items()
    ]
    tellings += [Telling(part, n, 0.5, 0.5, 0.5, False) for n in values if n not in properties]
    return PartLeaks(part, len(labels), total, tuple(tellings))


def _telling(
    part: str,
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    limit: float,
    alpha: float,
    seed: int,
) -> Telling:
    rng = np.random.default_rng(seed)
    ranks = _tried(name, features, labels, groups, rng)
    auc = weighted_auc(labels, ranks, np.ones((1, len(labels))))[0]
    low, high = _interval(labels, ranks, groups, rng)
    leaks = auc > limit and _beyond_chance(auc, name, features, labels, groups, alpha, rng)
    return Telling(part, name, float(auc), low, high, bool(leaks))


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] area under the ROC curve, ties counted half, for R weightings of the same faces.

    Args:
        labels: [N] ``REAL`` or ``FAKE``; a fake should score higher.
        scores: [N].
        weights: [R, N], 0 or more; NaN comes out where a label has none.
    """
    levels, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(levels)))
    fakes = np.add.reduceat((weights * (labels == FAKE))[:, order], starts, axis=1)
    reals = np.add.reduceat((weights * (labels == REAL))[:, order], starts, axis=1)
    below = np.cumsum(reals, axis=1) - reals / 2
    with np.errstate(invalid="ignore"):
        return (fakes * below).sum(axis=1) / (fakes.sum(axis=1) * reals.sum(axis=1))


def _tried(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """[N] rank of each face, 0-1, within its fold, by a classifier that did not see its group."""
    folds = _folds(labels, groups, rng)
    ranks = np.full(len(labels), 0.5)
    for fold in range(FOLDS):
        test = folds == fold
        if not test.any() or len(np.unique(labels[~test])) < 2:
            continue
        classifier = _classifier(name, int((~test).sum()), int(rng.integers(2**31)))
        classifier.fit(features[~test], labels[~test])
        scores = classifier.predict_proba(features[test])[:, 1]
        # Ranks: the classifiers of two folds may differ in level
        ranks[test] = (stats.rankdata(scores) - 0.5) / len(scores)
    return ranks


def _classifier(name: str, count: int, seed: int) -> ExtraTreesClassifier | DecisionTreeClassifier:
    leaf = max(5, count // 100)
    if name == ALL:
        return ExtraTreesClassifier(
            TREES, min_samples_leaf=leaf, max_features=None, class_weight="balanced",
            random_state=seed,
        )  # fmt: skip
    return DecisionTreeClassifier(
        max_depth=DEPTH, min_samples_leaf=leaf, class_weight="balanced", random_state=seed
    )


def _folds(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N] fold of each face: whole groups; those of one kind (real, forged, both) spread evenly."""
    total = int(groups.max()) + 1
    has = [np.bincount(groups[labels == label], minlength=total) > 0 for label in (REAL, FAKE)]
    order = np.lexsort((rng.permutation(total), has[0] + 2 * has[1]))
    folds = np.empty(total, dtype=np.int64)
    folds[order] = np.arange(total) % FOLDS
    return folds[groups]


def _beyond_chance(
    auc: float,
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    alpha: float,
    rng: np.random.Generator,
) -> bool:
    """Whether shuffled labels have such an AUC with a probability under ``alpha``.

    Labels are shuffled as blocks of groups, so that faces of a group stay as alike as they are.
    The bound is that of one more draw from a normal distribution of which some are known. It is
    looked at after each number of ``SHUFFLES``, each time with its share of ``alpha``.
    """
    by_group = np.argsort(groups, kind="stable")
    blocks = np.split(labels[by_group], np.flatnonzero(np.diff(groups[by_group])) + 1)
    once = np.ones((1, len(labels)))
    found: list[float] = []
    for count in SHUFFLES:
        while len(found) < count:
            shuffled = np.empty_like(labels)
            drawn = [rng.permutation(blocks[place]) for place in rng.permutation(len(blocks))]
            shuffled[by_group] = np.concatenate(drawn)
            ranks = _tried(name, features, shuffled, groups, rng)
            found.append(float(weighted_auc(shuffled, ranks, once)[0]))
        spread = np.std(found, ddof=1) * np.sqrt(1 + 1 / count)
        if auc > np.mean(found) + stats.t.isf(alpha / len(SHUFFLES), count - 1) * spread:
            return True
    return False


def _interval(
    labels: np.ndarray, ranks: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of the AUC: groups are drawn with repetition."""
    total = int(groups.max()) + 1
    drawn = [
        np.bincount(rng.integers(total, size=total), minlength=total) for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(
        weighted_auc(labels, ranks, np.stack(drawn)[:, groups].astype(float)), (0.025, 0.975)
    )
    return float(low), float(high)

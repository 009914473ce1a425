"""Checks of a manifest that need its image files, or all of its rows together.

Faults of single rows are found while reading: ``comics.data.faces.manifest``.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode

from comics.data.compression import RAW
from comics.data.faces.manifest import IDENTITIES, UNKNOWN, Manifest
from comics.data.faces.needs import FaceNeeds
from comics.data.faces.pairs import PairIndex
from comics.data.records import DatasetError
from comics.structures import CLASS_NAMES, FAKE, REAL

logger = logging.getLogger(__name__)

ORIGINALS_LOOKED_AT = 100  # paired real pictures whose files are looked for before a training


@dataclass(frozen=True)
class ManifestFault:
    """One fault: where, and what.

    ``code`` is "missing-file", "missing-pair", "missing-mask" or "shared-group", "shared-video",
    "shared-picture".
    """

    code: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} [{self.code}]"


def check_files(manifest: Manifest) -> list[ManifestFault]:
    """Rows whose picture, paired real picture or mask is not there; nothing is decoded."""
    faults, known = [], {}

    def absent(path: str) -> bool:
        if path not in known:
            known[path] = os.path.isfile(path)
        return not known[path]

    for index in range(len(manifest)):
        row = manifest[index]
        if absent(row.path):
            faults.append(ManifestFault("missing-file", row.place, f"no such file: {row.path}"))
        if row.paired_real and absent(row.paired_real):
            message = f"no such paired real picture: {row.paired_real}"
            faults.append(ManifestFault("missing-pair", row.place, message))
        if row.mask and not row.mask.startswith("{") and absent(row.mask):
            faults.append(ManifestFault("missing-mask", row.place, f"no such mask: {row.mask}"))
    return faults


def shared_groups(manifest: Manifest) -> list[ManifestFault]:
    """Groups, clips, pictures and paired real pictures that two parts share.

    A part is a split, of all files together; of rows without a split, their file. What a model
    learnt of a person would be tested on the same person.
    """
    splits = np.array([*manifest.names["split"], ""], dtype=object)[manifest.codes["split"]]
    files = np.array(manifest.files, dtype=object)[manifest.file]
    parts = np.where(splits == "", files, splits)
    faults = []
    for column, values in _keys(manifest).items():
        first: dict[str, int] = {}
        told: set[str] = set()
        for row, value in values:
            other = first.setdefault(value, row)
            if parts[other] == parts[row] or value in told:
                continue
            told.add(value)
            message = (
                f"{column} {value!r} is in {parts[row]!r}, and in {parts[other]!r} "
                f"({manifest.place(other)})"
            )
            faults.append(ManifestFault(f"shared-{column}", manifest.place(row), message))
    return faults


def _keys(manifest: Manifest) -> dict[str, list[tuple[int, str]]]:
    """By column, (row, value) of what must stay in one part; rows without a value are left out."""
    keys: dict[str, list[tuple[int, str]]] = {}
    for column in ("group", "video"):
        names, codes = manifest.names[column], manifest.codes[column]
        keys[column] = [(int(row), names[codes[row]]) for row in np.flatnonzero(codes != UNKNOWN)]
    roots = [os.path.realpath(root) for root in manifest.roots]
    keys["picture"] = [
        (row, os.path.normpath(os.path.join(roots[file], name)))
        for row, file in enumerate(manifest.file)
        for name in dict.fromkeys((manifest.paths[row], manifest.paired[row]))
        if name
    ]
    return keys


def require_both_classes(manifest: Manifest, purpose: str) -> None:
    """Refuse a set that has no real or no fake face.

    Raises:
        DatasetError: naming the files and the class that is absent.
    """
    for label, name in enumerate(CLASS_NAMES):
        if not (manifest.labels == label).any():
            raise DatasetError(
                f"{', '.join(manifest.files)}: none of {len(manifest)} rows is {name.lower()}; "
                f"{purpose} needs both classes"
            )


def require_reals(manifest: Manifest, purpose: str) -> None:
    """Refuse a set without a real face: self-blending makes its forgeries from these.

    Raises:
        DatasetError: naming the files.
    """
    if not (manifest.labels == REAL).any():
        raise DatasetError(
            f"{', '.join(manifest.files)}: none of {len(manifest)} rows is real; {purpose} makes "
            "its forgeries from real faces (INPUT.FACE.SELF_BLEND)"
        )


def of_compression(manifest: Manifest, level: str) -> Manifest:
    """The rows of that compression; all of them for "".

    Raises:
        DatasetError: if there are none.
    """
    return manifest.select({"compression": [level]}) if level else manifest


def require_methods(manifest: Manifest, methods: Sequence[str], wanted_by: str) -> None:
    """Refuse a set with a fake whose forgery method is not one of ``methods``.

    Raises:
        DatasetError: naming the first of them.
    """
    known = np.array([*(name in methods for name in manifest.names["method"]), False])
    fakes = manifest.labels == FAKE
    without = np.flatnonzero(fakes & ~known[manifest.codes["method"]])
    if len(without):
        row = int(without[0])
        name = manifest.name(row, "method")
        found = f"its method {name!r} is not in INPUT.FACE.METHODS" if name else "it has no method"
        raise DatasetError(
            f"{manifest.place(row)}: {wanted_by} trains on the forgery method of every fake, and "
            f"{found} (as {len(without)} of {int(fakes.sum())} fakes)"
        )


def check_needs(cfg: CfgNode, manifest: Manifest, needs: FaceNeeds) -> list[str]:
    """What a method asks for and a training set does not have, before the first step.

    What a step would stop at is an error (forgery methods: ``require_methods``). What leaves a part
    of the method without effect is warned of and returned: it trains, but not as its name says.

    Args:
        cfg: MODEL.FACE and INPUT.FACE are read.
        manifest: the training set, without what is not trained on.
        needs: of the method.
    """
    files, found = ", ".join(manifest.files), []
    for check in (_pairs_lack, _partners_lack, _levels_lack, _clusters_lack):
        found += [f"{files}: {fault}" for fault in check(cfg, manifest, needs)]
    for fault in found:
        logger.warning("%s", fault)
    return found


def _pairs_lack(cfg: CfgNode, manifest: Manifest, needs: FaceNeeds) -> list[str]:
    """Of methods that compare a fake with the picture that it was made from."""
    if "paired_real" not in needs.views or cfg.INPUT.FACE.SELF_BLEND.ENABLED:
        return []
    fakes = np.flatnonzero(manifest.labels == FAKE)
    paired = [row for row in fakes.tolist() if manifest.paired[row]]
    if not paired and not any(manifest.masks[row] for row in fakes.tolist()):
        return [
            f"no fake has a paired real picture or a mask (columns paired_real, mask): what "
            f"{cfg.MODEL.FACE.METHOD} learns within a forged face is left out"
        ]
    looked = [paired[i] for i in range(0, len(paired), max(1, len(paired) // ORIGINALS_LOOKED_AT))]
    absent = [row for row in looked if not os.path.isfile(manifest[row].paired_real)]
    if not absent:
        return []
    return [
        f"{len(absent)} of {len(looked)} paired real pictures looked for are not there, such as "
        f"{manifest[absent[0]].paired_real}: their fakes train without them"
    ]


def _partners_lack(cfg: CfgNode, manifest: Manifest, needs: FaceNeeds) -> list[str]:
    """Of methods that compare frames of a clip, or clips of a person."""
    face, found = cfg.MODEL.FACE, []
    pairing = face.REAL_CENTRIC.PAIRING if "positive" in needs.views else []
    clips = PairIndex(manifest).has_clips()
    if "other" in needs.views and not clips:
        found.append(
            f"no clip has two frames (columns video, frame): {face.METHOD} contrasts nothing"
        )
    if "temporal" in pairing and not clips:
        found.append("no clip has two frames (columns video, frame): no temporal pairs")
    identities = [manifest.codes[column] for column in IDENTITIES]
    if "semantic" in pairing and all((codes == UNKNOWN).all() for codes in identities):
        found.append("no identity is known (columns source, target): no semantic pairs")
    return found


def _levels_lack(cfg: CfgNode, manifest: Manifest, needs: FaceNeeds) -> list[str]:
    """Of methods that compare compressions."""
    if "strong" not in needs.views:
        return []
    relation = cfg.MODEL.FACE.COMPRESSION_RELATION
    used = {manifest.name(int(row), "compression") for row in _firsts(manifest, "compression")}
    absent = [level for level in (relation.WEAK, relation.STRONG) if level not in used]
    if not absent:
        return []
    if not cfg.INPUT.FACE.COMPRESS_MISSING:
        return [
            f"no row has the compression {absent[0]} (there is {', '.join(sorted(used)) or 'none'})"
            f", and INPUT.FACE.COMPRESS_MISSING is off: {cfg.MODEL.FACE.METHOD} compares nothing"
        ]
    compressed = sorted(used - {RAW, "", relation.WEAK, relation.STRONG})
    if relation.WEAK in absent and (compressed or relation.STRONG in used):
        from_level = ", ".join(compressed or [relation.STRONG])
        return [
            f"{relation.WEAK} is made from rows that are compressed already ({from_level}): "
            "weakly compressed frames need raw ones"
        ]
    return []


def _clusters_lack(cfg: CfgNode, manifest: Manifest, needs: FaceNeeds) -> list[str]:
    """Of methods that decouple forgery from content."""
    if not needs.clusters or (manifest.clusters != UNKNOWN).any():
        return []
    return [
        f"no row has a content cluster (comics cluster-faces writes that column): "
        f"{cfg.MODEL.FACE.METHOD} neither pushes nor pulls"
    ]


def shared_people(first: Manifest, second: Manifest) -> list[str]:
    """Groups, clips and people of one set that are in another one too; one sentence per column.

    An identity is that of its data set (column set): "id0" of two sets are two people. Rows of the
    same file without a set are of one data set, rows of two files are not.
    """
    found = []
    for column in ("group", "video", *IDENTITIES):
        mine, theirs = (_named(manifest, column) for manifest in (first, second))
        shared = sorted(mine & theirs)
        if shared:
            names = ", ".join(repr(name) for _, name in shared[:3])
            found.append(
                f"{', '.join(first.files)} and {', '.join(second.files)} share {len(shared)} of "
                f"{len(theirs)} values of {column}, such as {names}"
            )
    return found


def _named(manifest: Manifest, column: str) -> set[tuple[str, str]]:
    """(data set or file, value) of a column; groups and clips count as they are named."""
    found = set()
    for row in _firsts(manifest, "set", "file", column):
        name = manifest.name(int(row), column)
        if not name:
            continue
        file = os.path.realpath(manifest.files[manifest.file[row]])
        home = manifest.name(int(row), "set") or file
        found.add((home if column in IDENTITIES else "", name))
    return found


def _firsts(manifest: Manifest, *columns: str) -> np.ndarray:
    """The first row of every combination of values."""
    codes = [manifest.file if c == "file" else manifest.codes[c] for c in columns]
    return np.unique(np.stack(codes, axis=1), axis=0, return_index=True)[1]


def summary(manifest: Manifest) -> str:
    """Rows by split, method and compression, as lines of text."""
    columns = ("split", "method", "compression")
    names = {c: np.array([*manifest.names[c], "-"], dtype=object) for c in columns}
    values = [names[column][manifest.codes[column]] for column in columns]
    counts = Counter(zip(*values, strict=True))
    lines = [f"{count:8d}  {' / '.join(key)}" for key, count in sorted(counts.items())]
    return "\n".join(["    rows  split / method / compression", *lines])

"""Protocols: a paper's table as a file. Rows are trainings, columns are tests.

A protocol is YAML with these keys (docs/protocols.md); an unknown one is an error:

========== =======================================================================================
title      of the table
source     the paper, by its anchor in docs/papers.md
sets       name -> manifest; entries of rows and columns begin with "{name}"
train, val entries of every row, as DATASETS.TRAIN and VAL
metrics    names of figures ("AUC", "EER", "accuracy", "accuracy_real", ...); default AUC
level      what a figure is over: "face" (default) or "video"
seeds      default [0, 1, 2]
baseline   the row that others are compared with, of their own group
options    KEY: VALUE of the configuration, for every row
rows       list of: name, config; optionally group, train, val, options
columns    list of: name, test (an entry); optionally train, val (a training of its own for this
           column, as where one method is left out), options (for testing only)
published  "name" or "group / name" -> the paper's figures, columns in order, each with its
           metrics, null where it has none; also of methods that are no row here
========== =======================================================================================
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from comics.config import CfgNode, load_config
from comics.config.files import read_config_file
from comics.data.faces.checks import (
    check_needs,
    require_both_classes,
    require_methods,
    require_reals,
    shared_people,
)
from comics.data.faces.loader import load_faces, training_faces, training_methods
from comics.data.faces.manifest import Manifest
from comics.data.faces.needs import FaceNeeds
from comics.data.records import DatasetError
from comics.engine.tasks import FACES
from comics.errors import error_text
from comics.modeling.faces.build import build_face_method

KEYS = (
    "title", "source", "sets", "train", "val", "metrics", "level", "seeds", "baseline", "options",
    "rows", "columns", "published",
)  # fmt: skip
ROW_KEYS = ("name", "config", "group", "train", "val", "options")
COLUMN_KEYS = ("name", "test", "train", "val", "options")
LEVELS = ("face", "video")
PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Row:
    """A method: how it trains. ``train`` and ``val`` are empty where the protocol's hold."""

    name: str
    config: str
    group: str = ""
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name with its group, which is unique."""
        return f"{self.group} / {self.name}" if self.group else self.name


@dataclass(frozen=True)
class Column:
    """A test; with ``train`` a test of a training of its own."""

    name: str
    test: str
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """One run: what rows and columns share is trained once.

    Attributes:
        row: how.
        train, val: entries, places filled in.
        seed: of the run.
        folder: where it goes.
    """

    row: Row
    train: tuple[str, ...]
    val: tuple[str, ...]
    seed: int
    folder: Path


@dataclass(frozen=True)
class Protocol:
    """A table to be made; attributes are the keys of the file."""

    title: str
    sets: Mapping[str, str]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    source: str = ""
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("AUC",)
    level: str = "face"
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str = ""
    options: tuple[str, ...] = ()
    published: Mapping[str, list] = field(default_factory=dict)

    def training(self, row: Row, column: Column, seed: int, folder: Path) -> Training:
        """The run that a cell is measured on.

        Raises:
            ValueError: if neither row nor column nor protocol says what is trained on, or an entry
                names an unknown set.
        """
        train = self.entries(column.train or row.train or self.train)
        val = self.entries(column.val or row.val or self.val)
        if not train:
            raise ValueError(f"row {row.label!r}: no entry to train on (train)")
        text = json.dumps([row.label, row.config, row.options, self.options, train, val])
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        place = folder / "runs" / f"{_file_name(row.label)}-{digest}" / f"seed{seed}"
        return Training(row, train, val, seed, place)

    def entries(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Entries with the manifest in the place of each "{name}"."""
        return tuple(PLACE.sub(self._manifest, text) for text in texts)

    def _manifest(self, match: re.Match[str]) -> str:
        if match[1] not in self.sets:
            known = ", ".join(self.sets)
            raise ValueError(f"{match.string!r}: there is no set {match[1]!r}, only {known}")
        return os.path.expanduser(self.sets[match[1]])


def read_protocol(path: str | os.PathLike, sets: Mapping[str, str] | None = None) -> Protocol:
    """A protocol from its file, or by its published name ("protocols/DCL_table_1").

    Args:
        path: of the file.
        sets: manifests in the place of the file's own, by name.

    Raises:
        OSError: if it cannot be opened.
        ValueError: naming the file and what is wrong: an unknown key, a missing one, a row or
            column twice, a set that does not exist.
    """
    where, content = os.fspath(path), read_config_file(path)
    _require_keys(content, KEYS, ("title", "sets", "rows", "columns"), where)
    known = {str(name): str(place) for name, place in content["sets"].items()}
    unknown = sorted(set(sets or {}) - set(known))
    if unknown:
        raise ValueError(f"{where}: there is no set {unknown[0]!r}, only {', '.join(known)}")
    rows, columns = _rows(content["rows"], where), _columns(content["columns"], where)
    protocol = Protocol(
        title=str(content["title"]),
        sets={**known, **(sets or {})},
        rows=rows,
        columns=columns,
        source=str(content.get("source", "")),
        train=_texts(content.get("train", []), f"{where}: train"),
        val=_texts(content.get("val", []), f"{where}: val"),
        metrics=_texts(content.get("metrics", ["AUC"]), f"{where}: metrics"),
        level=str(content.get("level", "face")),
        seeds=_seeds(content.get("seeds", [0, 1, 2]), where),
        baseline=str(content.get("baseline", "")),
        options=_words(content.get("options", {}), f"{where}: options"),
        published=content.get("published", {}),
    )
    _check(protocol, where)
    return protocol


def run_configuration(protocol: Protocol, run: Training, more: Sequence[str] = ()) -> CfgNode:
    """The configuration of a run, frozen.

    Raises:
        KeyError, ValueError, OSError: as ``load_config``.
    """
    words = [
        *("DATASETS.TRAIN", str(list(run.train)), "DATASETS.VAL", str(list(run.val))),
        *("DATASETS.TEST", "[]", "SEED", str(run.seed), "OUTPUT_DIR", str(run.folder)),
        *protocol.options,
        *run.row.options,
        *more,
    ]
    return load_config(run.row.config, words)


def trainings(protocol: Protocol, folder: Path) -> list[Training]:
    """Every run that the table needs, each once."""
    found = {
        run.folder: run
        for row in protocol.rows
        for column in protocol.columns
        for seed in protocol.seeds
        for run in [protocol.training(row, column, seed, folder)]
    }
    return list(found.values())


def check_protocol(
    protocol: Protocol, folder: Path, more: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Everything that would stop a run or empty a cell, before the first step of the first one.

    Args:
        protocol: the table.
        folder: where runs go.
        more: KEY VALUE words for every run.

    Returns:
        Faults, which a table cannot be made with; and remarks, such as people that a training set
        shares with a test set.
    """
    faults: list[str] = []
    remarks: list[str] = []
    tested: dict[str, Manifest] = {}
    for column in protocol.columns:
        (entry,) = protocol.entries([column.test])
        found = _tested(protocol, column, entry, more, faults)
        if found is not None:
            tested[column.name] = found
    for run in trainings(protocol, folder):
        if run.seed != protocol.seeds[0]:
            continue
        label = f"row {run.row.label!r}"
        try:
            trained = _trained(protocol, run, more, label, faults)
        except (OSError, KeyError, ValueError) as error:
            faults.append(f"{label}: {error_text(error)}")
            continue
        for column in protocol.columns:
            own = protocol.training(run.row, column, run.seed, folder).folder == run.folder
            if own and column.name in tested:
                remarks += shared_people(trained, tested[column.name])
    return list(dict.fromkeys(faults)), list(dict.fromkeys(remarks))


def _tested(
    protocol: Protocol, column: Column, entry: str, more: Sequence[str], faults: list[str]
) -> Manifest | None:
    """The faces of a column; what is wrong with it joins ``faults``."""
    try:
        cfg = load_config(protocol.rows[0].config, [*more, *column.options])
        found = load_faces(cfg, entry)
        require_both_classes(found, f"column {column.name!r}")
    except (OSError, KeyError, ValueError) as error:
        faults.append(f"column {column.name!r}: {error_text(error)}")
        return None
    if protocol.level == "video" and not (found.codes["video"] >= 0).any():
        faults.append(f"column {column.name!r}: {entry}: no video is known, and the level is video")
    return found


def _trained(
    protocol: Protocol, run: Training, more: Sequence[str], label: str, faults: list[str]
) -> Manifest:
    """The faces of a run's training set; what its method needs and it lacks joins ``faults``."""
    cfg = FACES.settled(run_configuration(protocol, run, more))
    with torch.device("meta"):
        needs = FaceNeeds.of(build_face_method(cfg))
    manifest, _ = training_faces(cfg, cfg.DATASETS.TRAIN)
    blends = cfg.INPUT.FACE.SELF_BLEND.ENABLED
    (require_reals if blends else require_both_classes)(manifest, label)
    if needs.methods:
        require_methods(manifest, training_methods(cfg, manifest), cfg.MODEL.FACE.METHOD)
    faults += [f"{label}: {fault}" for fault in check_needs(cfg, manifest, needs)]
    weights = cfg.MODEL.FACE.ENCODER_WEIGHTS
    if weights and not Path(weights).is_file():
        faults.append(
            f"{label}: no encoder weights at {weights} (docs/methods.md#faces-weights says where "
            "they come from)"
        )
    for entry in run.val:
        try:
            require_both_classes(load_faces(cfg, entry), f"{label}: validation")
        except DatasetError as error:
            faults.append(f"{label}: {error}")
    return manifest


# -- reading -------------------------------------------------------------------------------------


def _rows(entries: Any, where: str) -> tuple[Row, ...]:
    rows = []
    for entry in _entries(entries, "rows", ROW_KEYS, ("name", "config"), where):
        place = f"{where}: row {entry['name']!r}"
        rows.append(
            Row(
                name=str(entry["name"]),
                config=str(entry["config"]),
                group=str(entry.get("group", "")),
                train=_texts(entry.get("train", []), f"{place}: train"),
                val=_texts(entry.get("val", []), f"{place}: val"),
                options=_words(entry.get("options", {}), f"{place}: options"),
            )
        )
    _require_unique([row.label for row in rows], f"{where}: row")
    return tuple(rows)


def _columns(entries: Any, where: str) -> tuple[Column, ...]:
    columns = []
    for entry in _entries(entries, "columns", COLUMN_KEYS, ("name", "test"), where):
        place = f"{where}: column {entry['name']!r}"
        columns.append(
            Column(
                name=str(entry["name"]),
                test=str(entry["test"]),
                train=_texts(entry.get("train", []), f"{place}: train"),
                val=_texts(entry.get("val", []), f"{place}: val"),
                options=_words(entry.get("options", {}), f"{place}: options"),
            )
        )
    _require_unique([column.name for column in columns], f"{where}: column")
    return tuple(columns)


def _entries(
    entries: Any, key: str, known: Sequence[str], needed: Sequence[str], where: str
) -> list[dict]:
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: {key} must be a list of at least one")
    for number, entry in enumerate(entries):
        place = f"{where}: {key}[{number}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{place} is no list of keys")
        _require_keys(entry, known, needed, place)
    return entries


def _require_keys(
    content: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], where: str
) -> None:
    for name in content:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unknown key {name!r}; the nearest is {nearest!r}")
    missing = [name for name in needed if name not in content]
    if missing:
        raise ValueError(f"{where}: there is no {missing[0]}")


def _require_unique(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is there more than once")


def _texts(values: Any, where: str) -> tuple[str, ...]:
    listed = [values] if isinstance(values, str) else values
    if not isinstance(listed, list) or not all(isinstance(value, str) for value in listed):
        raise ValueError(f"{where} must be text, or a list of texts")
    return tuple(listed)


def _words(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be KEY: VALUE pairs")
    return tuple(str(word) for pair in values.items() for word in pair)


def _seeds(values: Any, where: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not values or not all(type(v) is int for v in values):
        raise ValueError(f"{where}: seeds must be a list of whole numbers")
    return tuple(dict.fromkeys(values))


def _check(protocol: Protocol, where: str) -> None:
    """What the parts of a protocol say of each other."""
    if protocol.level not in LEVELS:
        raise ValueError(f"{where}: level must be one of {LEVELS}, got {protocol.level!r}")
    names = [row.name for row in protocol.rows]
    if protocol.baseline and protocol.baseline not in names:
        raise ValueError(f"{where}: baseline {protocol.baseline!r} is no row: {', '.join(names)}")
    wanted = len(protocol.columns) * len(protocol.metrics)
    for label, figures in protocol.published.items():
        if not isinstance(figures, list) or len(figures) != wanted:
            raise ValueError(
                f"{where}: published {label!r} must be a list of {wanted} figures: each column's "
                f"{', '.join(protocol.metrics)}"
            )
    try:
        trainings(protocol, Path())
        protocol.entries(column.test for column in protocol.columns)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _file_name(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "row"

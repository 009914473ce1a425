"""``comics evaluate --protocol``: the trainings and tests of a paper's table, then the table."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.evaluation import OutputError
from comics.files import write_text

if TYPE_CHECKING:
    from comics.engine.protocols import Column, Protocol, Training
    from comics.evaluation.predictions import Predictions
    from comics.evaluation.protocol_tables import ProtocolTable, Scored

FINAL, BEST = "model_final.safetensors", "model_best.safetensors"
INTERRUPTED = (130, 143, -2, -15)  # exit codes of a training that was told to stop


class Stopped(Exception):
    """A signal ended a training; what is done is kept."""


def set_places(words: Sequence[str]) -> dict[str, str]:
    """NAME=MANIFEST words as name -> manifest.

    Raises:
        ValueError: for a word of another form.
    """
    places = {}
    for word in words:
        name, mark, place = word.partition("=")
        if not mark or not name or not place:
            raise ValueError(f"--sets {word!r} is not NAME=MANIFEST")
        places[name] = place
    return places


def run_protocol(
    path: str,
    folder: Path,
    *,
    sets: Mapping[str, str],
    options: Sequence[str],
    device: str = "auto",
    plan_only: bool = False,
) -> bool:
    """Train what has not been trained, test what has not been tested, write table.md and .csv.

    Args:
        path: of the protocol.
        folder: gets ``runs/<row>-<digest>/seed<n>``, each a training's folder with a
            ``tests/<column>`` beside it, and the tables. What is there is not done again; an
            interrupted training goes on.
        sets: manifests in the place of the protocol's own.
        options: KEY VALUE words for every run.
        device: for testing.
        plan_only: check everything, say what would be done, and do nothing.

    Returns:
        Whether every cell could be filled.

    Raises:
        ValueError: naming all that the protocol lacks, before the first step.
        OutputError: if the tables cannot be written.
        Stopped: if a training was told to stop.
    """
    from comics.engine.protocols import check_protocol, read_protocol, trainings

    protocol = read_protocol(path, sets)
    faults, remarks = check_protocol(protocol, folder, options)
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    if faults:
        raise ValueError(f"{path}: nothing was started:\n  " + "\n  ".join(faults))
    runs = trainings(protocol, folder)
    waiting = [run for run in runs if not (run.folder / FINAL).is_file()]
    print(f"{protocol.title}: {len(runs)} trainings, {len(waiting)} of them to do")
    if plan_only:
        for run in waiting:
            print(f"  {run.folder}: {', '.join(run.train)}")
        return True
    failed = [run for run in waiting if not _train(protocol, run, options)]
    table, whole = _table(protocol, folder, {run.folder for run in failed}, options, device)
    text = f"# {protocol.title}\n\n{table.markdown()}"
    print(text)
    try:
        write_text(folder / "table.md", text)
        write_text(folder / "table.csv", table.csv())
    except OSError as error:
        raise OutputError(str(error)) from error
    return whole and not failed


def _train(protocol: Protocol, run: Training, options: Sequence[str]) -> bool:
    """One training, in a process of its own; whether it came to its end."""
    from comics.engine.protocols import run_configuration

    cfg = run_configuration(protocol, run, options)
    config = run.folder / "protocol.yaml"
    write_text(config, cfg.dump())
    words = [sys.executable, "-m", "comics", "train", "--config-file", str(config), "--resume"]
    print(f"training {run.folder}")
    code = subprocess.run(words, check=False).returncode
    if code in INTERRUPTED:
        raise Stopped(f"stopped while training {run.folder}: the same command goes on")
    if not (run.folder / FINAL).is_file():
        print(f"{run.folder}: the training failed (exit code {code})", file=sys.stderr)
        return False
    return True


def _table(
    protocol: Protocol, folder: Path, failed: set[Path], options: Sequence[str], device: str
) -> tuple[ProtocolTable, bool]:
    """The table, and whether every cell of it is filled."""
    from comics.evaluation.protocol_tables import (
        ProtocolTable,
        at_level,
        figures,
        published_rows,
    )

    table = ProtocolTable(
        rows=[(row.group, row.name) for row in protocol.rows],
        columns=[column.name for column in protocol.columns],
        metrics=list(protocol.metrics),
        published=published_rows(protocol.published),
        baseline=protocol.baseline,
    )
    scored: dict[tuple[str, str, str], dict[int, Scored]] = {}
    whole = True
    for row in protocol.rows:
        for column in protocol.columns:
            for seed in protocol.seeds:
                run = protocol.training(row, column, seed, folder)
                if run.folder in failed:
                    whole = False
                    continue
                found = _tested(protocol, run, column, options, device)
                key = (row.group, row.name, column.name)
                for name, value in figures(found, protocol.level, protocol.metrics).items():
                    table.values.setdefault((*key, name), []).append(value)
                scored.setdefault(key, {})[seed] = at_level(found, protocol.level)
    _compare(protocol, table, scored)
    return table, whole


def _compare(
    protocol: Protocol,
    table: ProtocolTable,
    scored: Mapping[tuple[str, str, str], Mapping[int, Scored]],
) -> None:
    """Set every row against the baseline of its group, on the seeds that both have."""
    from comics.evaluation.protocol_tables import paired_difference

    for (group, name, column), runs in scored.items():
        base = scored.get((group, protocol.baseline, column), {})
        seeds = [seed for seed in runs if seed in base]
        if name == protocol.baseline or not seeds:
            continue
        first, second = [runs[s] for s in seeds], [base[s] for s in seeds]
        try:
            table.differences[(group, name, column)] = paired_difference(first, second)
        except ValueError as error:
            print(f"{name} and {protocol.baseline} on {column}: {error}", file=sys.stderr)


def _tested(
    protocol: Protocol, run: Training, column: Column, options: Sequence[str], device: str
) -> Predictions:
    """Predictions of a run on a column, made where they are not there."""
    from comics.evaluation.predictions import load_predictions

    (entry,) = protocol.entries([column.test])
    path = run.folder / "tests" / _file_name(column, entry) / "predictions.csv"
    if not path.is_file():
        _measure(run, column, entry, options, device, path)
    return load_predictions(path)


def _measure(
    run: Training,
    column: Column,
    entry: str,
    options: Sequence[str],
    device: str,
    path: Path,
) -> None:
    """Write the predictions of a run's best model, or its last where none is the best."""
    from comics.config.defaults import merge_overrides
    from comics.engine.measure_faces import FaceSet, measure_faces
    from comics.modeling.build import choose_device, load_model

    best = run.folder / BEST
    place = choose_device(device)
    model, cfg, _ = load_model(best if best.is_file() else run.folder / FINAL, place)
    cfg = cfg.clone()
    cfg.defrost()
    merge_overrides(cfg, [*options, *column.options])
    cfg.freeze()
    print(f"testing {run.folder} on {column.name}")
    measure_faces(cfg, model, [FaceSet(entry, path)], place)


def _file_name(column: Column, entry: str) -> str:
    """A column's folder: its name, and what it is tested on and with."""
    text = "\n".join([entry, *column.options])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', column.name)}-{digest}"

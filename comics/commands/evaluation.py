"""What ``comics evaluate`` does: each function prints its figures and writes its report.

Each returns whether everything could be evaluated; what could not is printed on stderr.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comics.evaluation.metrics import Metrics, evaluate
from comics.evaluation.predictions import load_predictions
from comics.evaluation.tables import cross_table, load_test_results

if TYPE_CHECKING:
    from comics.config import CfgNode
    from comics.evaluation.ground_truth import GroundTruth

ROBUSTNESS_METRICS = ("AP", "AP50", "oLRP")  # of the last mode (masks, where there are any)


class OutputError(Exception):
    """A report that cannot be written."""


def print_tables(
    paths: Sequence[str], metrics: Sequence[str], folder: str | os.PathLike | None = None
) -> bool:
    """A cross-dataset or cross-manipulation table, and table.md and table.csv in ``folder``."""
    results, clean = [], True
    for path in paths:
        try:
            results += load_test_results(path)
        except (OSError, ValueError) as error:
            print(f"{path}: left out: {error}", file=sys.stderr)
            clean = False
    table = cross_table(results, metrics) if results else None
    if table is None:
        raise ValueError("none of the files can be used")
    print(table.markdown())
    if folder is not None:
        _write({"table.md": table.markdown() + "\n", "table.csv": table.csv()}, Path(folder))
    return clean


def evaluate_predictions(
    path: str,
    by: Sequence[str] = (),
    folder: str | os.PathLike | None = None,
    title: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> bool:
    """AUC, EER and the rest of a CSV of P(fake)."""
    from comics.evaluation.tables import markdown_table
    from comics.pages import classification_report as reports

    report = reports.build_classification_report(load_predictions(path), by)
    for caption, table in reports.classification_tables(report).items():
        print(f"{caption}\n\n{markdown_table(*table)}\n")
    for note in report.notes:
        print(f"note: {note}")
    if folder is not None:
        with _output_errors():
            heading = title or f"Evaluation of {Path(path).name}"
            _say(reports.write_classification_report(report, folder, heading, identity))
    return True


def evaluate_results(
    ground_truth: str,
    results: Sequence[str],
    iou_types: Sequence[str],
    *,
    id_zero_unmatched: bool = False,
    report: str | os.PathLike | None = None,
    title: str | None = None,
    images: str | os.PathLike | None = None,
    identity: Mapping[str, str] | None = None,
) -> bool:
    """AP and oLRP of results files; with several, each report goes into a folder of its own."""
    truth = _annotations(ground_truth, iou_types)
    root = Path(images) if images is not None else Path(ground_truth).parent
    clean = True
    for number, path in enumerate(results):
        try:
            metrics = evaluate(truth, _results(path, truth), iou_types, id_zero_unmatched)
        except (OSError, ValueError) as error:
            if len(results) == 1:
                raise
            print(f"{path}: left out: {error}", file=sys.stderr)
            clean = False
            continue
        print(f"{path}\n\n{metrics.table()}\n")
        if report is not None:
            place = Path(report)
            place = place / f"{number}_{Path(path).stem}" if len(results) > 1 else place
            heading = title or f"Evaluation of {Path(path).name}"
            _report(metrics, place, heading, image_root=root, identity=identity)
    return clean


def _results(path: str, truth: GroundTruth) -> str | list[dict[str, Any]]:
    """A results file as it is; of the outputs of comics scale, its faces as results."""
    from comics.scale.reader import ScaleOutput, is_scale_output

    if not is_scale_output(path):
        return path
    from comics.scale.coco_results import coco_results

    return coco_results(ScaleOutput(path), truth.file_names, truth.image_ids.tolist())


def evaluate_weights(
    weights: str,
    entries: Sequence[str] | None,
    overrides: Sequence[str] = (),
    *,
    iou_types: Sequence[str] | None = None,
    device: str = "auto",
    report: str | os.PathLike | None = None,
    title: str | None = None,
    robustness: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 3, 5),
    fit_calibration: bool = False,
    identity: Mapping[str, str] | None = None,
) -> bool:
    """A model file on data set entries; under ``torchrun`` all processes predict.

    Args:
        entries: default DATASETS.TEST, or DATASETS.VAL with ``fit_calibration``.
        overrides: KEY VALUE pairs of the model's configuration.
        iou_types: default: boxes, and masks if MODEL.MASK_ON.
        robustness: names of corruptions, empty for all; None: not measured.
        fit_calibration: fit the temperature on the (one) entry and store it in the model file.
    """
    from comics.engine.distributed import process_group
    from comics.evaluation.robustness import conditions
    from comics.modeling.build import load_model
    from comics.modeling.face_forensics import FACE_METHOD

    grid = None if robustness is None else conditions(robustness or None, severities)
    with process_group(device) as place:
        model, cfg, file = load_model(weights, place)
        if cfg.MODEL.META_ARCHITECTURE == FACE_METHOD:
            raise ValueError(
                f"{weights} holds a face method: tools/train_net.py --eval-only writes its "
                "predictions, and --predictions reads them"
            )
        cfg = _override(cfg, overrides)
        modes = list(iou_types or (["bbox", "segm"] if cfg.MODEL.MASK_ON else ["bbox"]))
        chosen = list(entries or (cfg.DATASETS.VAL if fit_calibration else cfg.DATASETS.TEST))
        if fit_calibration and len(chosen) != 1:
            raise ValueError(f"a temperature is fitted on one set, got {chosen}")
        run = _Run(weights, model, cfg, file, place, modes, grid, fit_calibration)
        clean = True
        for number, entry in enumerate(chosen):
            folder = None if report is None else Path(report)
            folder = folder / str(number) if folder and len(chosen) > 1 else folder
            heading = title or f"{Path(weights).name} on {entry}"
            clean &= _evaluate_entry(run, entry, folder, heading, identity)
    return clean


def _annotations(path: str, iou_types: Sequence[str]) -> GroundTruth:
    """The ground truth of a file: as COCO's tools read it, else as training does.

    Raises:
        FileNotFoundError, ValueError: if neither can use it.
    """
    from comics.evaluation.ground_truth import load_ground_truth

    try:
        truth = load_ground_truth(path)
        if set(iou_types) != {"bbox"} and None not in truth.segmentations:
            _ = truth.rles  # a faulty mask shows here
        return truth
    except ValueError as error:
        # Slow to import, and needed for faulty files only
        from comics.data.coco_parser import parse_coco
        from comics.evaluation.annotated_faces import ground_truth_of

        coco = parse_coco(path, None)
        if coco.errors:
            raise
        truth = ground_truth_of(coco)
        truth.notes.append(f"read as training reads it, for COCO's way does not work: {error}")
        return truth


def _override(cfg: Any, pairs: Sequence[str]) -> Any:
    from comics.config import load_config

    load_config(None, pairs)  # an unknown key is an error that names the nearest
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(pairs))
    return cfg


@dataclass(frozen=True)
class _Run:
    """A loaded model, and what is to be done with it."""

    weights: str
    model: Any
    cfg: Any
    file: Any
    place: Any
    modes: list[str]
    grid: list | None
    fit_calibration: bool


def _evaluate_entry(
    run: _Run, entry: str, folder: Path | None, title: str, identity: Mapping[str, str] | None
) -> bool:
    from comics.engine.distributed import is_main
    from comics.evaluation import detector

    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as home:
        how = (home, run.place, run.modes)
        outcome = detector.evaluate_entry(run.cfg, run.model, entry, *how)
        table = None
        if run.grid is not None:
            table = detector.robustness_of(
                run.cfg, run.model, entry, *how, run.grid, outcome.metrics
            )
    clean = not outcome.skipped and not (table and table.faults)
    if not is_main():
        return clean
    metrics = outcome.metrics
    assert metrics is not None  # None in other processes than the main one
    print(f"{entry}\n\n{metrics.table()}\n")
    temperature = float(run.file.metadata.get("temperature", 1))
    if run.fit_calibration:
        temperature = _calibrate(run.weights, metrics, entry, run.cfg)
    names = [f"{run.modes[-1]}/{name}" for name in ROBUSTNESS_METRICS]
    if table is not None:
        print(table.markdown(names))
    if folder is not None:
        _report(
            metrics,
            folder,
            title,
            image_root=outcome.files.image_root,
            robustness=table,
            robustness_metrics=names,
            temperature=temperature,
            identity=identity,
            provenance=_provenance(run, temperature),
        )
    return clean


def _calibrate(weights: str, metrics: Metrics, entry: str, cfg: CfgNode) -> float:
    from comics.evaluation.detector import calibrate_detector

    found = calibrate_detector(weights, metrics, entry, cfg.TEST.MISSING_SCORE)
    print(
        f"temperature {found.temperature:.4f} fitted on {found.count} faces of {entry}, stored in "
        f"{weights}: calibration error {100 * found.error_before:.1f} -> "
        f"{100 * found.error_after:.1f} (x100; on the same faces)"
    )
    return found.temperature


def _provenance(run: _Run, temperature: float) -> dict[str, str]:
    cfg = run.cfg
    return {
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": Path(run.weights).name,
        "weights sha256": run.file.sha256,
        "temperature": f"{temperature:g}",
        "input size": f"{cfg.INPUT.MIN_SIZE_TEST} to {cfg.INPUT.MAX_SIZE_TEST} pixels",
    }


def _report(metrics: Metrics, folder: Path, title: str, **content: Any) -> None:
    from comics.pages.evaluation_report import build_report, write_report

    report = build_report(metrics, title, **content)
    with _output_errors():
        _say(write_report(report, folder))


def _say(paths: Mapping[str, Path]) -> None:
    print(f"Report: {paths['report.html']}")


def _write(texts: Mapping[str, str], folder: Path) -> None:
    from comics.files import write_bytes

    with _output_errors():
        for name, text in texts.items():
            write_bytes(folder / name, text.encode("utf-8"))


@contextmanager
def _output_errors() -> Iterator[None]:
    """``OSError`` inside the block becomes ``OutputError``."""
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error

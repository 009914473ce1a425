"""Evaluating a model file on data set entries: predict, measure, corrupt, calibrate."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from comics.config import CfgNode
from comics.data.catalog import DatasetFiles, dataset_files, datasets_root
from comics.data.loader import build_test_loader
from comics.data.transforms import Geometry, evaluation_geometry
from comics.engine.distributed import gather, is_main, rank, world_size
from comics.evaluation.annotated_faces import ground_truth_of, read_entry
from comics.evaluation.calibration import Calibration, fit_temperature, store_temperature
from comics.evaluation.faces import face_verdicts
from comics.evaluation.metrics import Metrics, evaluate
from comics.evaluation.robustness import CLEAN, Condition, RobustnessTable, measure_grid
from comics.evaluation.runner import predict_to_file
from comics.structures import Faces

PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class CorruptedGeometry:
    """A geometry that first corrupts the image, at its original size."""

    condition: Condition
    geometry: Geometry

    def __call__(
        self, image: np.ndarray, faces: Faces, rng: np.random.Generator
    ) -> tuple[np.ndarray, Faces]:
        """``condition``, then ``geometry``."""
        return self.geometry(self.condition(image), faces, rng)


@dataclass(frozen=True)
class EntryOutcome:
    """A detector's figures on one data set entry.

    Attributes:
        metrics: None on all processes but the main one.
        files: annotations and images of the entry.
        skipped: images that could not be read; they count as images without detections.
    """

    metrics: Metrics | None
    files: DatasetFiles
    skipped: list[str]


def evaluate_entry(
    cfg: CfgNode,
    model: nn.Module,
    entry: str,
    folder: str | os.PathLike,
    device: torch.device | str,
    iou_types: Sequence[str],
    condition: Condition | None = None,
) -> EntryOutcome:
    """Predict the images of an entry (all processes together) and evaluate (the main one).

    Args:
        cfg: INPUT, TEST, DATALOADER and DATASETS.ROOT are read.
        model: a detector on ``device``.
        entry: a registered name or an annotation file.
        folder: gets ``predictions.json`` (for a condition: ``predictions_<condition>.json``).
        device: of the model.
        iou_types: as in ``evaluate``.
        condition: what is done to the images; None: nothing.

    Raises:
        KeyError, DatasetError, ValueError: if the entry or its annotations cannot be used.
    """
    files = dataset_files(entry, datasets_root(cfg))
    coco = read_entry(files)
    geometry: Geometry = evaluation_geometry(cfg)
    if condition is not None:
        geometry = CorruptedGeometry(condition, geometry)
    loader = build_test_loader(cfg, entry, rank(), world_size(), geometry=geometry)
    name = PREDICTIONS
    if condition is not None:
        name = f"predictions_{condition.title.replace(' ', '_')}.json"
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = ground_truth_of(coco)
    predict_to_file(model, loader, path, device, category_ids=coco.category_ids)
    skipped = sorted(p for paths in gather(list(loader.skipped)) for p in paths)
    metrics = evaluate(truth, path, iou_types) if is_main() else None
    if metrics is not None and skipped:
        metrics.notes.append(
            f"{len(skipped)} images could not be read and count as images without detections; "
            f"first: {skipped[0]}"
        )
    return EntryOutcome(metrics, files, skipped)


def robustness_of(
    cfg: CfgNode,
    model: nn.Module,
    entry: str,
    folder: str | os.PathLike,
    device: torch.device | str,
    iou_types: Sequence[str],
    grid: Sequence[Condition],
    clean: Metrics | None,
) -> RobustnessTable:
    """``evaluate_entry`` under every condition; the figures are empty but on the main process.

    ``clean`` are the figures without corruption (None on the other processes).
    """

    def measure(condition: Condition) -> dict[str, float]:
        if condition.name == CLEAN:
            return {} if clean is None else clean.flat()
        outcome = evaluate_entry(cfg, model, entry, folder, device, iou_types, condition)
        return {} if outcome.metrics is None else outcome.metrics.flat()

    return measure_grid(measure, grid)


def calibrate_detector(
    weights: str | os.PathLike, metrics: Metrics, entry: str, missing_score: float
) -> Calibration:
    """Fit the temperature to a detector's P(fake) of the faces it found, and store it.

    Args:
        weights: model file that the predictions are from; its metadata is rewritten.
        metrics: on validation data (never a test set).
        entry: name of that data, stored too.
        missing_score: TEST.MISSING_SCORE.

    Raises:
        ValueError: if there is no best temperature (``fit_temperature``).
    """
    verdicts = face_verdicts(metrics, next(iter(metrics.modes)), missing_score)
    found = ~np.isnan(verdicts.fake_probability)
    calibration = fit_temperature(verdicts.labels[found], verdicts.fake_probability[found])
    if not math.isfinite(calibration.temperature):
        raise ValueError(f"the temperature fitted on {entry} is {calibration.temperature}")
    store_temperature(weights, calibration, entry)
    return calibration

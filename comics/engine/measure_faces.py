"""Measuring a face method on data set entries: P(fake) to a table of predictions, then figures.

The tables (``comics.evaluation.predictions``) are what ``comics evaluate --predictions`` reads.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from comics.config import CfgNode
from comics.data.faces.loader import FaceTestLoader, build_face_test_loader, load_faces
from comics.data.faces.manifest import Manifest
from comics.data.faces.needs import FaceNeeds
from comics.data.records import DatasetError
from comics.engine import distributed
from comics.engine.measure import RESULTS_FOLDER, Measurement, mean_figures
from comics.evaluation.classification import ClassificationMetrics
from comics.evaluation.predictions import load_predictions, metrics_at, write_predictions
from comics.structures import FaceBatch

logger = logging.getLogger(__name__)

FACE_FIGURES = "face"  # what the names of figures start with
SHOWN = ("AUC", "EER", "AP", "accuracy", "accuracy_real", "accuracy_fake")
SCORE_DIGITS = 8


@dataclass(frozen=True)
class FaceSet:
    """A data set entry, ready to be measured on.

    Attributes:
        entry: as in ``DATASETS``.
        predictions: the table that predictions go to.
    """

    entry: str
    predictions: Path


def measured_face_sets(cfg: CfgNode, entries: Sequence[str]) -> list[FaceSet]:
    """Check the entries, before a training that needs them at its end.

    Raises:
        KeyError, DatasetError: for an entry that does not exist or cannot be used.
    """
    sets = []
    for position, entry in enumerate(entries):
        load_faces(cfg, entry)
        name, mark, condition = entry.partition("@")
        stem = Path(name).stem + (f"_{condition}" if ".csv@" in entry and mark else "")
        stem = re.sub(r"\W+", "_", stem)
        name = f"{position}_{stem}.csv" if len(entries) > 1 else f"{stem}.csv"
        sets.append(FaceSet(entry, Path(cfg.OUTPUT_DIR) / RESULTS_FOLDER / name))
    return sets


def measure_faces(
    cfg: CfgNode, model: nn.Module, sets: Sequence[FaceSet], device: torch.device
) -> Measurement:
    """Figures of a face method on sets, on every process together.

    Named "face/AUC", ... per crop, and, where videos are known, "face/video_AUC", ... of the mean
    P(fake) of each (keyed by dataset, method, compression and id); see ``classification_metrics``
    for the figures. What a set does not define is NaN, and the log says why.

    Args:
        cfg: DATASETS, INPUT, DATALOADER, TEST and MODEL.FACE are read.
        model: a face method in evaluation mode, on ``device``.
        sets: from ``measured_face_sets``.
        device: of the model.

    Raises:
        DatasetError: if no face of a set could be read.
    """
    found = [_measure_one(cfg, model, one, device) for one in sets]
    skipped = sorted({path for one in found for path in one.skipped})
    figures = mean_figures([one.figures for one in found])
    if len(sets) > 1:
        for one, measurement in zip(sets, found, strict=True):
            figures |= {f"{one.entry}/{k}": v for k, v in measurement.figures.items()}
    return Measurement(figures, skipped)


def _measure_one(cfg: CfgNode, model: nn.Module, one: FaceSet, device: torch.device) -> Measurement:
    loader = build_face_test_loader(
        cfg, one.entry, distributed.rank(), distributed.world_size(), FaceNeeds.of(model)
    )
    own = predict_faces(model, loader, device, one.entry)
    rows = [row for part in distributed.gather(own) for row in part]
    skipped = [path for part in distributed.gather(sorted(loader.skipped)) for path in part]
    if not distributed.is_main():
        return Measurement({}, skipped)
    if not rows:
        raise DatasetError(f"{one.entry}: none of its faces could be read")
    write_predictions(one.predictions, rows)
    figures = _figures(one)
    if skipped:
        logger.warning("%s: %d pictures could not be read: left out", one.entry, len(skipped))
    return Measurement(figures, skipped)


def _figures(one: FaceSet) -> dict[str, float]:
    predictions = load_predictions(one.predictions)
    levels = {"": metrics_at(predictions, "face")}
    if "video" in predictions.columns:
        levels["video_"] = metrics_at(predictions, "video")
    logger.info("%s (predictions in %s): %s", one.entry, one.predictions, _line(levels))
    for level, metrics in levels.items():
        for note in metrics.notes:
            logger.info("%s, by %s: %s", one.entry, level.rstrip("_") or "face", note)
    return {
        f"{FACE_FIGURES}/{level}{name}": float(value)
        for level, metrics in levels.items()
        for name, value in metrics.values.items()
    }


def _line(levels: dict[str, ClassificationMetrics]) -> str:
    return "; ".join(
        "  ".join(f"{level}{name} {metrics.values[name]:.4f}" for name in SHOWN)
        for level, metrics in levels.items()
    )


@torch.inference_mode()
def predict_faces(
    model: nn.Module, loader: FaceTestLoader, device: torch.device | str, dataset: str
) -> list[dict[str, object]]:
    """P(fake) of every face of a loader, as rows of a table of predictions.

    Args:
        model: a face method on ``device``; its mode is restored.
        loader: this process's share of the faces.
        device: where the model is.
        dataset: name of the set in the table.
    """
    manifest, next_row = loader.manifest, 0
    has_videos = bool((manifest.codes["video"] >= 0).any())
    has_groups = bool((manifest.codes["group"] >= 0).any())
    was_training = model.training
    model.eval()
    rows: list[dict[str, object]] = []
    try:
        for batch in tqdm(loader, desc="predict", unit="batch", disable=not distributed.is_main()):
            scores = torch.sigmoid(model(batch.images.to(device)).double()).tolist()
            found = rows_of_batch(manifest, next_row, batch)
            next_row = found[-1] + 1
            for row, score in zip(found, scores, strict=True):
                rows.append(_prediction(manifest, row, score, dataset, has_videos, has_groups))
    finally:
        model.train(was_training)
    return rows


def rows_of_batch(manifest: Manifest, start: int, batch: FaceBatch) -> list[int]:
    """The row of each crop of a batch that a test loader gave; broken pictures' rows are skipped.

    Args:
        manifest: the loader's.
        start: the row after the last one of the batch before.
        batch: crops in the order of the manifest.
    """
    rows = []
    for wanted in zip(batch.file_names, batch.labels.tolist(), strict=True):
        row = start
        while (manifest[row].path, int(manifest.labels[row])) != wanted:
            row += 1
        rows.append(row)
        start = row + 1
    return rows


def _prediction(
    manifest: Manifest, row: int, score: float, dataset: str, has_videos: bool, has_groups: bool
) -> dict[str, object]:
    face = manifest[row]
    prediction = {
        "label": face.label,
        "fake_probability": round(score, SCORE_DIGITS),
        "dataset": dataset,
        "method": manifest.name(row, "method"),
        "compression": face.compression,
        "path": face.path,
    }
    if has_groups:
        prediction["group"] = manifest.name(row, "group")
    if has_videos:  # a face without a video is a clip of its own
        frame = int(manifest.frames[row])
        prediction["video"] = manifest.name(row, "video") or face.place
        prediction["frame"] = "" if frame < 0 else frame
    return prediction

"""Measuring a model on data set entries: predictions to a results file, then the figures."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from comics.config import CfgNode
from comics.data.catalog import DatasetFiles, dataset_files, datasets_root
from comics.data.loader import build_test_loader
from comics.engine import distributed
from comics.evaluation import evaluate
from comics.evaluation.annotated_faces import ground_truth_of, read_entry
from comics.evaluation.runner import predict_to_file

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "inference"  # below OUTPUT_DIR


@dataclass(frozen=True)
class MeasuredSet:
    """A data set entry, ready to be measured on.

    Attributes:
        entry: as in ``DATASETS``.
        files: its annotations and images.
        category_ids: ids of (real, fake) in its annotation file.
        results: the COCO results file that predictions go to.
    """

    entry: str
    files: DatasetFiles
    category_ids: tuple[int, int]
    results: Path


@dataclass(frozen=True)
class Measurement:
    """What was found on one or more sets.

    Attributes:
        figures: "segm/AP", ... -> value from 0 to 1, NaN where undefined; the mean over the sets,
            and with several sets also "<entry>/segm/AP" for each. Empty but on the main process.
        skipped: paths of the images that could not be read.
    """

    figures: dict[str, float]
    skipped: list[str]


def measured_sets(cfg: CfgNode, entries: Sequence[str]) -> list[MeasuredSet]:
    """Check the entries and their annotation files, before a training that needs them at its end.

    Raises:
        KeyError, DatasetError: for an entry that does not exist or cannot be used.
    """
    root = datasets_root(cfg)
    sets = []
    for position, entry in enumerate(entries):
        files = dataset_files(entry, root)
        coco = read_entry(files)
        ground_truth_of(coco)  # what a validation will need
        stem = re.sub(r"\W+", "_", files.annotations.stem if "." in entry else entry)
        name = f"{position}_{stem}.json" if len(entries) > 1 else f"{stem}.json"
        results = Path(cfg.OUTPUT_DIR) / RESULTS_FOLDER / name
        sets.append(MeasuredSet(entry, files, coco.category_ids, results))
    return sets


def measure(
    cfg: CfgNode, model: nn.Module, sets: Sequence[MeasuredSet], device: torch.device
) -> Measurement:
    """Box and (with ``MODEL.MASK_ON``) mask figures of a model on sets, on every process together.

    Args:
        cfg: DATASETS, INPUT, DATALOADER, TEST and MODEL.MASK_ON are read.
        model: in evaluation mode, on ``device``.
        sets: from ``measured_sets``.
        device: of the model.
    """
    found = [_measure_one(cfg, model, one, device) for one in sets]
    skipped = sorted({path for one in found for path in one.skipped})
    figures = mean_figures([one.figures for one in found])
    if len(sets) > 1:
        for one, measurement in zip(sets, found, strict=True):
            figures |= {f"{one.entry}/{k}": v for k, v in measurement.figures.items()}
    return Measurement(figures, skipped)


def iou_types(cfg: CfgNode) -> list[str]:
    """What is compared: boxes, and masks where the model predicts them."""
    return ["bbox", "segm"] if cfg.MODEL.MASK_ON else ["bbox"]


def _measure_one(
    cfg: CfgNode, model: nn.Module, one: MeasuredSet, device: torch.device
) -> Measurement:
    one.results.parent.mkdir(parents=True, exist_ok=True)
    loader = build_test_loader(cfg, one.entry, distributed.rank(), distributed.world_size())
    predict_to_file(model, loader, one.results, device, category_ids=one.category_ids)
    skipped = [path for paths in distributed.gather(sorted(loader.skipped)) for path in paths]
    if not distributed.is_main():
        return Measurement({}, skipped)
    truth = ground_truth_of(read_entry(one.files))
    metrics = evaluate(truth, one.results, iou_types=iou_types(cfg))
    logger.info("%s (results in %s):\n%s", one.entry, one.results, metrics.table())
    if skipped:
        logger.warning(
            "%s: %d images could not be read, and count as empty", one.entry, len(skipped)
        )
    return Measurement(metrics.flat(), skipped)


def mean_figures(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure that every set has."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: sum(part[name] for part in parts) / len(parts) for name in shared}

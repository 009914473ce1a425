"""What differs between training a detector and a face method: loaders, models, measuring.

The trainer knows neither; ``comics.engine.train`` asks ``task_of`` for the parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from comics.config import CfgNode, get_cfg
from comics.data.faces.checks import shared_people
from comics.data.faces.loader import (
    build_face_train_loader,
    load_faces,
    training_faces,
    training_methods,
)
from comics.data.faces.needs import FaceNeeds
from comics.data.loader import TrainLoader, build_train_loader
from comics.data.records import DatasetError
from comics.engine import distributed
from comics.engine.measure import Measurement, iou_types, measure, measured_sets
from comics.engine.measure_faces import FACE_FIGURES, measure_faces, measured_face_sets
from comics.modeling.build import build_model
from comics.modeling.face_forensics import FACE_FORENSICS, FACE_METHOD
from comics.modeling.faces.build import build_face_method

logger = logging.getLogger(__name__)

# cfg, model, sets of ``measured_sets``, device
Measure = Callable[[CfgNode, nn.Module, Sequence[Any], torch.device], Measurement]


@dataclass(frozen=True)
class Task:
    """One kind of training.

    Attributes:
        settled: (cfg) -> the configuration with what the training set decides.
        initial_model: (cfg) -> a model with the weights that a training starts from, but for
            ``MODEL.WEIGHTS``.
        train_loader: (cfg, model, start iteration) -> this process's batches.
        measured_sets: (cfg, entries) -> what ``measure`` takes; raises for an unusable entry.
        measure: figures of a model on such sets, on every process together.
        figure_kinds: (cfg) -> what names of figures start with, before "/".
        reads_foreign_weights: whether ``MODEL.WEIGHTS`` may be another program's.
    """

    settled: Callable[[CfgNode], CfgNode]
    initial_model: Callable[[CfgNode], nn.Module]
    train_loader: Callable[[CfgNode, nn.Module, int], TrainLoader]
    measured_sets: Callable[[CfgNode, Sequence[str]], list]
    measure: Measure
    figure_kinds: Callable[[CfgNode], list[str]]
    reads_foreign_weights: bool


def task_of(cfg: CfgNode) -> Task:
    """The task that ``MODEL.META_ARCHITECTURE`` implies."""
    return FACES if cfg.MODEL.META_ARCHITECTURE == FACE_METHOD else DETECTION


def check_trainable(cfg: CfgNode) -> None:
    """Raise ``ValueError`` for a model that is put together from trained ones."""
    if cfg.MODEL.META_ARCHITECTURE == FACE_FORENSICS:
        raise ValueError(
            f"{FACE_FORENSICS} is not trained as a whole: train a detector and a face method, then "
            "join their model files by tools/combine_weights.py"
        )


def epoch_schedule(cfg: CfgNode, iterations_per_epoch: int) -> CfgNode:
    """The configuration with a face method's epochs as iterations; else ``cfg`` itself.

    ``MODEL.FACE.EPOCHS`` sets ``SOLVER.MAX_ITER``, ``MODEL.FACE.LR_DECAY_EPOCHS`` sets
    ``SOLVER.STEPS``; where one is 0 or empty, the solver's own value stays.
    ``MODEL.FACE.EVAL_EPOCHS`` sets ``TEST.EVAL_PERIOD`` where that is 0.
    """
    face = cfg.MODEL.FACE
    if cfg.MODEL.META_ARCHITECTURE != FACE_METHOD:
        return cfg
    timed = cfg.clone()
    timed.defrost()
    if face.EPOCHS:
        timed.SOLVER.MAX_ITER = face.EPOCHS * iterations_per_epoch
    if face.LR_DECAY_EPOCHS:
        timed.SOLVER.STEPS = [epoch * iterations_per_epoch for epoch in face.LR_DECAY_EPOCHS]
    if not cfg.TEST.EVAL_PERIOD:
        timed.TEST.EVAL_PERIOD = face.EVAL_EPOCHS * iterations_per_epoch
    timed.freeze()
    return timed


def _unchanged(cfg: CfgNode) -> CfgNode:
    return cfg


def _settled_domains(cfg: CfgNode) -> CfgNode:
    """GuideSpace's domains: the forgery methods of the training set, where these are fewer.

    So a training that leaves one method out has one guide less (docs/methods.md#guidespace-guides).
    """
    if cfg.MODEL.FACE.METHOD != "GuideSpace":
        return cfg
    manifest, _ = training_faces(cfg, cfg.DATASETS.TRAIN)
    count = len(training_methods(cfg, manifest))
    if not 0 < count < cfg.MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS:
        return cfg
    settled = cfg.clone()
    settled.defrost()
    settled.MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS = count
    settled.freeze()
    logger.info("the training set has %d forgery methods: NUM_DOMAINS is %d", count, count)
    return settled


def overridden_keys(cfg: CfgNode, timed: CfgNode) -> list[str]:
    """A sentence for each key of ``SOLVER`` that was set, and that epochs set otherwise.

    Args:
        cfg: as it was given.
        timed: what ``epoch_schedule`` made of it.
    """
    usual = get_cfg().SOLVER
    return [
        f"MODEL.FACE.{by} decides: SOLVER.{key} is {timed.SOLVER[key]}, not {cfg.SOLVER[key]}"
        for key, by in (("MAX_ITER", "EPOCHS"), ("STEPS", "LR_DECAY_EPOCHS"))
        if timed.SOLVER[key] != cfg.SOLVER[key] != usual[key]
    ]


def _detection_loader(cfg: CfgNode, model: nn.Module, start: int) -> TrainLoader:
    del model  # the configuration says what a detector needs
    return build_train_loader(cfg, start, distributed.rank(), distributed.world_size())


def _initial_face_method(cfg: CfgNode) -> nn.Module:
    return build_face_method(cfg, load_weights=not cfg.MODEL.WEIGHTS)


def _face_loader(cfg: CfgNode, model: nn.Module, start: int) -> TrainLoader:
    needs = FaceNeeds.of(model)
    ranks = (distributed.rank(), distributed.world_size())
    loader = build_face_train_loader(cfg, start, *ranks, needs=needs)
    forgeries, expected = loader.method_names[1:], getattr(model, "num_domains", None)
    if expected is not None and len(forgeries) > expected:
        raise ValueError(
            f"{type(model).__name__} is configured for {expected} forgery methods (NUM_DOMAINS); "
            f"the training set has {len(forgeries)}: {', '.join(forgeries)} (INPUT.FACE.METHODS)"
        )
    if distributed.is_main():
        _warn_of_stages(cfg, model, loader.iterations_per_epoch)
        _warn_of_shared_people(cfg)
    return loader


def _warn_of_stages(cfg: CfgNode, model: nn.Module, iterations_per_epoch: int) -> None:
    """A run that ends before its second stage leaves a random classifier."""
    first = getattr(model, "stage1_epochs", 0) * iterations_per_epoch
    total = epoch_schedule(cfg, iterations_per_epoch).SOLVER.MAX_ITER
    if first and total <= first:
        logger.warning(
            "the run's %d iterations end within stage 1 (%d): the classifier is never trained "
            "(MODEL.FACE.EPOCHS, REAL_CENTRIC.STAGE1_EPOCHS)",
            total,
            first,
        )


def _warn_of_shared_people(cfg: CfgNode) -> None:
    """Name what the training set shares with what checkpoints are chosen and tested on."""
    trained, _ = training_faces(cfg, cfg.DATASETS.TRAIN)
    for entry in dict.fromkeys([*cfg.DATASETS.VAL, *cfg.DATASETS.TEST]):
        # Sets for testing may be elsewhere; those that are measured have been checked
        with suppress(DatasetError, KeyError, OSError):
            for fault in shared_people(trained, load_faces(cfg, entry)):
                logger.warning("%s: what is measured there is partly remembered", fault)


DETECTION = Task(
    settled=_unchanged,
    initial_model=build_model,
    train_loader=_detection_loader,
    measured_sets=measured_sets,
    measure=measure,
    figure_kinds=iou_types,
    reads_foreign_weights=True,
)
FACES = Task(
    settled=_settled_domains,
    initial_model=_initial_face_method,
    train_loader=_face_loader,
    measured_sets=measured_face_sets,
    measure=measure_faces,
    figure_kinds=lambda cfg: [FACE_FIGURES],
    reads_foreign_weights=False,
)

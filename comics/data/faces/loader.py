"""Loaders of face crops: which rows make which batch, and the processes that read them.

As in ``comics.data.loader``, the order of a run is one endless list of global batches, fixed by
the seed and the set; ranks, workers and a resumed start change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from fvcore.common.config import CfgNode

from comics.data.catalog import dataset_files, datasets_root
from comics.data.faces.augmenters import face_augmenter
from comics.data.faces.checks import (
    check_needs,
    of_compression,
    require_both_classes,
    require_methods,
    require_reals,
)
from comics.data.faces.coco_faces import coco_manifest
from comics.data.faces.dataset import (
    FaceCollate,
    FaceTestDataset,
    FaceTrainDataset,
    number_methods,
)
from comics.data.faces.manifest import REAL_METHOD, UNKNOWN, Manifest, join_manifests, split_entry
from comics.data.faces.manifest_files import read_manifest
from comics.data.faces.needs import FaceNeeds
from comics.data.faces.orders import BalancedOrder, SharedOrder, UndersampledOrder
from comics.data.faces.pairs import PairIndex
from comics.data.faces.samples import FaceReader, SampleMaker
from comics.data.faces.self_blend import SELF_BLEND_METHOD, SelfBlendView
from comics.data.loader import (
    TestLoader,
    TrainingOrder,
    TrainingSampler,
    TrainLoader,
    make_data_loader,
)
from comics.data.records import DatasetError
from comics.structures import REAL

logger = logging.getLogger(__name__)


class FaceTrainLoader(TrainLoader):
    """Endless ``FaceBatch``; ``method_names`` are "real" and the names of methods 1, 2, ..."""

    method_names: tuple[str, ...] = (REAL_METHOD,)


class FaceTestLoader(TestLoader):
    """One pass over a set's faces in its order, as ``FaceBatch``.

    ``manifest`` holds the rows in that order, those that turn out broken included.
    """

    __test__ = False
    manifest: Manifest
    method_names: tuple[str, ...] = (REAL_METHOD,)


def build_face_train_loader(
    cfg: CfgNode,
    start_iteration: int = 0,
    rank: int = 0,
    world_size: int = 1,
    entries: Sequence[str] | None = None,
    needs: FaceNeeds | None = None,
) -> FaceTrainLoader:
    """The loader of DATASETS.TRAIN (or ``entries``) for a face method.

    Args:
        cfg: DATASETS, INPUT.FACE, MODEL.FACE, SOLVER, DATALOADER and SEED are read.
        start_iteration: the first one to hand over.
        rank, world_size: which part of each batch, of how many.
        entries: manifests ("faces.csv", "faces.csv@split=train"), or multi-face COCO sets.
        needs: of the method; None: of the one that MODEL.FACE.METHOD names.

    Raises:
        DatasetError: if a set cannot be used, or holds one class alone; with self-blending real
            faces alone are enough.
        ValueError: if the batch cannot be divided.
    """
    entries = list(cfg.DATASETS.TRAIN if entries is None else entries)
    needs = FaceNeeds.from_config(cfg) if needs is None else needs
    manifest, sources = training_faces(cfg, entries)
    maker = _sample_maker(cfg, manifest, PairIndex(manifest), needs)
    self_blends = maker.self_blend is not None
    check = require_reals if self_blends else require_both_classes
    check(manifest, "training")
    methods = training_methods(cfg, manifest)
    if needs.methods:
        require_methods(manifest, methods, cfg.MODEL.FACE.METHOD)
    check_needs(cfg, manifest, needs)
    rows = _query_rows(cfg, manifest, needs, check)
    order = _order(cfg, manifest.take(rows), sources[rows])
    sampler = TrainingSampler(order, start_iteration, rank, world_size, cfg.SOLVER.ACCUMULATE)
    dataset = FaceTrainDataset(maker, cfg.SEED, rows, pairs=isinstance(order, SharedOrder))
    numbers = number_methods(manifest, methods)
    twin_method = methods.index(SELF_BLEND_METHOD) + 1 if SELF_BLEND_METHOD in methods else UNKNOWN
    collate = FaceCollate(manifest, numbers, maker.views, maker.with_masks, twin_method)
    logger.info("training on %d faces of %s", len(rows), ", ".join(entries))
    batches = make_data_loader(cfg, dataset, collate, batch_sampler=sampler)
    loader = FaceTrainLoader(batches, order, len(rows))
    loader.method_names = (REAL_METHOD, *methods)
    return loader


def training_faces(cfg: CfgNode, entries: Sequence[str]) -> tuple[Manifest, np.ndarray]:
    """The faces that a training on those entries may use, and [N] which entry each is of.

    Raises:
        DatasetError: if a set cannot be used, or none is of INPUT.FACE.COMPRESSION.
    """
    parts = [_without_small(load_faces(cfg, e), cfg.INPUT.FACE.MIN_SIDE) for e in entries]
    parts = [of_compression(part, cfg.INPUT.FACE.COMPRESSION) for part in parts]
    blend = cfg.INPUT.FACE.SELF_BLEND
    if blend.ENABLED and blend.REALS_ONLY:
        parts = [part.take(np.flatnonzero(part.labels == REAL)) for part in parts]
    sources = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return join_manifests(parts), sources


def training_methods(cfg: CfgNode, manifest: Manifest) -> tuple[str, ...]:
    """Names of the methods 1, 2, ... of a training; self-blending is one of them where it is on."""
    return method_names(cfg, manifest, (SELF_BLEND_METHOD,) * cfg.INPUT.FACE.SELF_BLEND.ENABLED)


def build_face_test_loader(
    cfg: CfgNode,
    entry: str,
    rank: int = 0,
    world_size: int = 1,
    needs: FaceNeeds | None = None,
    with_masks: bool = False,
) -> FaceTestLoader:
    """The loader of one entry of DATASETS.TEST or VAL; rank r takes every R-th row from the r-th.

    Raises:
        DatasetError: if the set cannot be used.
    """
    needs = FaceNeeds.from_config(cfg) if needs is None else needs
    manifest = load_faces(cfg, entry)
    manifest = manifest.take(np.arange(rank, len(manifest), world_size))
    methods = method_names(cfg, manifest)
    dataset = FaceTestDataset(
        manifest,
        _reader(cfg, needs),
        jpeg_quality=cfg.INPUT.FACE.TEST_JPEG,
        crf=cfg.INPUT.FACE.TEST_CRF,
        with_masks=with_masks,
    )
    numbers = number_methods(manifest, methods)
    collate = FaceCollate(manifest, numbers, with_masks=with_masks)
    batches = make_data_loader(cfg, dataset, collate, batch_size=cfg.TEST.IMS_PER_BATCH)
    loader = FaceTestLoader(batches, len(manifest))
    loader.manifest, loader.method_names = manifest, (REAL_METHOD, *methods)
    return loader


def load_faces(cfg: CfgNode, entry: str) -> Manifest:
    """The faces of an entry of DATASETS: a manifest or a multi-face COCO set.

    Raises:
        DatasetError: if it cannot be used.
        KeyError: for a name that is not registered.
    """
    named = split_entry(entry)
    if named is not None:
        path, conditions = named
        return read_manifest(path).select(conditions)
    face = cfg.INPUT.FACE
    results = dict(_results_of(pair) for pair in face.BOXES).get(entry)
    files = dataset_files(entry, datasets_root(cfg))
    return coco_manifest(*files, results=results, min_iou=face.BOX_IOU, min_score=face.BOX_SCORE)


def method_names(cfg: CfgNode, manifest: Manifest, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the methods 1, 2, ...: INPUT.FACE.METHODS, or those of the set and ``more``, sorted.

    Raises:
        DatasetError: if INPUT.FACE.METHODS names one twice, or "real".
    """
    given = tuple(cfg.INPUT.FACE.METHODS)
    if not given:
        used = np.unique(manifest.codes["method"])
        names = [manifest.names["method"][code] for code in used if code >= 0]
        return tuple(sorted({*names, *more} - {REAL_METHOD}))
    if len(set(given)) < len(given) or REAL_METHOD in given:
        raise DatasetError(f"INPUT.FACE.METHODS {list(given)}: names of forgeries, each once")
    return given


def _without_small(manifest: Manifest, min_side: int) -> Manifest:
    """Without faces whose box has a side under ``min_side`` pixels; whole pictures stay."""
    sides = (manifest.boxes[:, 2:] - manifest.boxes[:, :2]).min(axis=1)
    kept = np.flatnonzero(~(sides < min_side))  # NaN, a whole picture, is not less
    if len(kept) < len(manifest):
        logger.info("%d faces under %d px are left out", len(manifest) - len(kept), min_side)
    return manifest.take(kept)


def _order(cfg: CfgNode, manifest: Manifest, sources: np.ndarray) -> TrainingOrder:
    """The order that DATASETS.TRAIN_SHARES and INPUT.FACE.BALANCED ask for."""
    labels = manifest.labels.astype(np.int64)
    seed, size = cfg.SEED, cfg.SOLVER.IMS_PER_BATCH
    shares = tuple(cfg.DATASETS.TRAIN_SHARES)
    if not shares:
        if cfg.INPUT.FACE.BALANCED and len(np.unique(labels)) > 1:
            kind = UndersampledOrder if cfg.INPUT.FACE.UNDERSAMPLE else BalancedOrder
            return kind(seed, size, labels)
        return TrainingOrder(seed, size, np.zeros_like(labels))
    if len(shares) != len(cfg.DATASETS.TRAIN):
        raise ValueError(
            f"DATASETS.TRAIN_SHARES has {len(shares)} shares for {len(cfg.DATASETS.TRAIN)} sets"
        )
    scenes = manifest.codes["group"]
    return SharedOrder(seed, size, labels, sources, scenes, shares, cfg.INPUT.FACE.PAIRED)


def _query_rows(
    cfg: CfgNode, manifest: Manifest, needs: FaceNeeds, check: Callable[[Manifest, str], None]
) -> np.ndarray:
    """Rows that samples start from: the weakly compressed ones where a method compares levels."""
    weak = cfg.MODEL.FACE.COMPRESSION_RELATION.WEAK
    levels = manifest.names["compression"]
    if "strong" not in needs.views or weak not in levels:
        return np.arange(len(manifest))
    rows = np.flatnonzero(manifest.codes["compression"] == levels.index(weak))
    if not len(rows):  # the level is that of rows which are not trained on
        return np.arange(len(manifest))
    logger.info("%d of %d rows are %s: samples start from these", len(rows), len(manifest), weak)
    check(manifest.take(rows), f"training from {weak}")
    return rows


def _sample_maker(
    cfg: CfgNode, manifest: Manifest, pairs: PairIndex, needs: FaceNeeds
) -> SampleMaker:
    relation, centric = cfg.MODEL.FACE.COMPRESSION_RELATION, cfg.MODEL.FACE.REAL_CENTRIC
    return SampleMaker(
        manifest=manifest,
        pairs=pairs,
        reader=_reader(cfg, needs),
        augmenter=face_augmenter(cfg),
        views=needs.views,
        with_masks=needs.masks,
        pairing=tuple(centric.PAIRING),
        pairing_frames=centric.PAIRING_FRAMES,
        weak=relation.WEAK,
        strong=relation.STRONG,
        compress_missing=cfg.INPUT.FACE.COMPRESS_MISSING,
        clip_frames=cfg.INPUT.FACE.CLIP_FRAMES,
        self_blend=SelfBlendView.from_config(cfg),
    )


def _reader(cfg: CfgNode, needs: FaceNeeds) -> FaceReader:
    face = cfg.INPUT.FACE
    return FaceReader(needs.crop_size, face.MARGIN, face.BORDER, cfg.INPUT.MAX_PIXELS)


def _results_of(pair: str) -> tuple[str, str]:
    entry, mark, results = pair.partition("=")
    if not mark:
        raise DatasetError(f"INPUT.FACE.BOXES: {pair!r} is not set.json=results.json")
    return entry, results

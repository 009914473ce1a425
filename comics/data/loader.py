"""Loaders: which images make which batch, and the processes that read them.

The order of a run is one endless list of global batches, fixed by the seed and the set. A loader
walks its share of it: rank r of R takes the r-th of R equal parts of each batch, and hands it over
in ``SOLVER.ACCUMULATE`` pieces. So neither workers, ranks nor a resumed start change what a step
is trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler

from comics.data.catalog import datasets_root, load_dataset
from comics.data.challenge_levels import ChallengeView
from comics.data.dataset import (
    ORDER,
    LoadedBatch,
    TestDataset,
    TrainDataset,
    collate,
    end_workers_at_exit,
    start_worker,
    tolerated_broken,
    too_many_broken,
)
from comics.data.images import ImageError
from comics.data.mosaic import Mosaic
from comics.data.records import DatasetError, ImageRecord
from comics.data.transforms import Geometry, evaluation_geometry, training_geometry
from comics.data.views import PhotometricView, View
from comics.structures import DetectionBatch

logger = logging.getLogger(__name__)

PREFETCH = 2  # batches that each worker reads ahead


@dataclass(frozen=True)
class TrainingOrder:
    """The endless list of global batches.

    Every epoch is a new permutation. Images that do not fill a last batch are left out of that
    epoch; a set smaller than a batch is repeated to fill one. With ``groups`` a batch holds images
    of one group, except at most one batch of what is left over.

    Attributes:
        seed: of every permutation.
        batch_size: images of a global batch.
        groups: [images] group number of each image, 0 or 1; all 0 for no grouping.
    """

    seed: int
    batch_size: int
    groups: np.ndarray

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in one epoch."""
        return max(1, len(self.groups) // self.batch_size)

    def epoch(self, number: int) -> np.ndarray:
        """[batches_per_epoch, batch_size] indices of images."""
        rng = np.random.default_rng((self.seed, ORDER, number))
        wanted = self.batches_per_epoch * self.batch_size
        repeats = -(-wanted // len(self.groups))
        order = np.concatenate([rng.permutation(len(self.groups)) for _ in range(repeats)])[:wanted]
        groups = self.groups[order]
        full, left_over = [], []
        for group in (0, 1):
            members = order[groups == group]
            whole = len(members) // self.batch_size * self.batch_size
            full.append(members[:whole])
            left_over.append(members[whole:])
        batches = np.concatenate(full + left_over).reshape(-1, self.batch_size)
        return rng.permutation(batches)

    def batches_from(self, iteration: int) -> Iterator[np.ndarray]:
        """Global batches, [batch_size] indices each, from that iteration on, without end."""
        number, skip = divmod(iteration, self.batches_per_epoch)
        while True:
            yield from self.epoch(number)[skip:]
            number, skip = number + 1, 0


class TrainingSampler(Sampler):
    """One rank's pieces of the global batches, as lists of (position in the run, index).

    Args:
        order: the global batches.
        start_iteration: the first one to hand over.
        rank, world_size: which part of each, of how many.
        accumulate: pieces that a part is handed over in.

    Raises:
        ValueError: if the batch cannot be divided so.
    """

    def __init__(
        self,
        order: TrainingOrder,
        start_iteration: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if order.batch_size % (world_size * accumulate):
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {order.batch_size} is not divisible by {world_size} "
                f"processes x SOLVER.ACCUMULATE {accumulate}"
            )
        self._order, self._start = order, start_iteration
        self._rank, self._accumulate = rank, accumulate
        self._share = order.batch_size // world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Without end."""
        first, piece = self._rank * self._share, self._share // self._accumulate
        for iteration, batch in enumerate(self._order.batches_from(self._start), self._start):
            for start in range(first, first + self._share, piece):
                base = iteration * self._order.batch_size
                yield [(base + i, int(batch[i])) for i in range(start, start + piece)]


class TrainLoader:
    """Endless batches; ``broken`` holds the images that could not be read, by file name.

    Each broken image is warned of once. When there are more than ``dataset.tolerated_broken``,
    the iteration ends with a ``DatasetError``.
    """

    def __init__(self, loader: DataLoader, order: TrainingOrder, images: int) -> None:
        self._loader, self._images = loader, images
        self.order = order
        self.broken: dict[str, tuple[int, ImageError]] = {}

    @property
    def iterations_per_epoch(self) -> int:
        """Optimiser steps in one pass over the images."""
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[DetectionBatch]:
        """``SOLVER.ACCUMULATE`` batches for each iteration, from ``start_iteration`` on."""
        for loaded in self._loader:
            _note_broken(loaded, self.broken, "replaced by another")
            if len(self.broken) > tolerated_broken(self._images):
                raise too_many_broken(list(self.broken.values()), self._images)
            yield loaded.batch


class TestLoader:
    """One pass over a set in its order; ``skipped`` holds the images that could not be read."""

    __test__ = False  # the name is no test's

    def __init__(self, loader: DataLoader, records: int) -> None:
        self._loader, self._records = loader, records
        self.skipped: dict[str, tuple[int, ImageError]] = {}

    def __len__(self) -> int:
        """Batches, if no image is broken."""
        return len(self._loader)

    def __iter__(self) -> Iterator[DetectionBatch]:
        """Batches without the broken images; a batch of nothing else is left out."""
        self.skipped.clear()
        for loaded in self._loader:
            _note_broken(loaded, self.skipped, "skipped")
            if loaded.batch is not None:
                yield loaded.batch


def build_train_loader(
    cfg: CfgNode,
    start_iteration: int = 0,
    rank: int = 0,
    world_size: int = 1,
    entries: Sequence[str] | None = None,
) -> TrainLoader:
    """The loader of DATASETS.TRAIN (or ``entries``), for one of ``world_size`` processes.

    The second view is made only if MODEL.COMICS.PROPOSAL.ENABLED and the model is a COMICS one;
    with INPUT.VIEWS.ENABLED off it is the same image.

    Raises:
        DatasetError: if a set cannot be used or no image is left to train on.
        ValueError: if the batch size cannot be divided.
    """
    entries = list(cfg.DATASETS.TRAIN if entries is None else entries)
    records = [r for entry in entries for r in load_dataset(entry, datasets_root(cfg))]
    records = _training_records(records, entries, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    tall = np.array([record.height > record.width for record in records], dtype=np.int64)
    groups = tall if cfg.DATALOADER.ASPECT_RATIO_GROUPING else np.zeros_like(tall)
    order = TrainingOrder(cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, groups)
    sampler = TrainingSampler(order, start_iteration, rank, world_size, cfg.SOLVER.ACCUMULATE)
    dataset = TrainDataset(
        records,
        geometry=training_geometry(cfg),
        view=training_view(cfg),
        seed=cfg.SEED,
        with_masks=cfg.MODEL.MASK_ON,
        with_key_view=needs_key_view(cfg),
        max_pixels=cfg.INPUT.MAX_PIXELS,
        mosaic=Mosaic(cfg.INPUT.MOSAIC.SIZE, cfg.INPUT.MOSAIC.PROB),
    )
    logger.info("training on %d images of %s", len(records), ", ".join(entries))
    return TrainLoader(make_data_loader(cfg, dataset, batch_sampler=sampler), order, len(records))


def build_test_loader(
    cfg: CfgNode,
    entry: str,
    rank: int = 0,
    world_size: int = 1,
    with_masks: bool = False,
    geometry: Geometry | None = None,
) -> TestLoader:
    """The loader of one entry of DATASETS.TEST or VAL; rank r takes every R-th image from the r-th.

    Args:
        cfg: INPUT, TEST, DATALOADER and DATASETS.ROOT are read.
        entry: a registered name or an annotation file, see ``comics.data.catalog``.
        rank, world_size: which images of the set.
        with_masks: also draw the ground truth's masks; evaluation reads them from the file.
        geometry: what is done to each image; None: the configuration's resize.

    Raises:
        DatasetError: if the set cannot be used or holds no image.
    """
    records = load_dataset(entry, datasets_root(cfg))
    if not records:
        raise DatasetError(f"{entry}: there is no image to test on")
    records = records[rank::world_size]
    geometry = geometry or evaluation_geometry(cfg)
    dataset = TestDataset(records, geometry, with_masks, cfg.INPUT.MAX_PIXELS)
    loader = make_data_loader(cfg, dataset, batch_size=cfg.TEST.IMS_PER_BATCH)
    return TestLoader(loader, len(records))


def training_view(cfg: CfgNode) -> View | None:
    """What INPUT.VIEWS makes of a training image; None where it is off.

    Raises:
        ValueError: if INPUT.VIEWS.CHALLENGE_PROB is no probability.
    """
    if not cfg.INPUT.VIEWS.ENABLED:
        return None
    share = cfg.INPUT.VIEWS.CHALLENGE_PROB
    if not 0 <= share <= 1:
        raise ValueError(f"INPUT.VIEWS.CHALLENGE_PROB must be in [0, 1], got {share}")
    return ChallengeView(share) if share else PhotometricView.from_config(cfg)


def needs_key_view(cfg: CfgNode) -> bool:
    """Whether the configured model trains on two views."""
    return cfg.MODEL.META_ARCHITECTURE.startswith("COMICS") and cfg.MODEL.COMICS.PROPOSAL.ENABLED


def _training_records(
    records: list[ImageRecord], entries: Sequence[str], filter_empty: bool
) -> list[ImageRecord]:
    with_faces = [record for record in records if record.targets]
    if not with_faces:
        raise DatasetError(
            f"{', '.join(entries) or 'DATASETS.TRAIN (empty)'}: none of {len(records)} images has "
            "a face to train on"
        )
    if filter_empty and len(with_faces) < len(records):
        logger.info(
            "%d images without faces are left out (DATALOADER.FILTER_EMPTY_ANNOTATIONS)",
            len(records) - len(with_faces),
        )
    return with_faces if filter_empty else records


def make_data_loader(
    cfg: CfgNode,
    dataset: torch.utils.data.Dataset,
    collate: Callable[[list], object] = collate,
    **batches: Any,
) -> DataLoader:
    """A loader with ``DATALOADER``'s workers.

    Args:
        cfg: DATALOADER, MODEL.DEVICE and SEED are read.
        dataset: what the workers read.
        collate: samples to a batch.
        batches: ``batch_sampler`` or ``batch_size``.
    """
    workers = cfg.DATALOADER.NUM_WORKERS
    on_cuda = cfg.MODEL.DEVICE == "auto" or cfg.MODEL.DEVICE.startswith("cuda")
    loader = DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        # Else a copy to the GPU waits for it, also one that asks not to
        pin_memory=on_cuda and torch.cuda.is_available(),
        # Its own generator: starting workers must not move the model's random numbers
        generator=torch.Generator().manual_seed(cfg.SEED),
        **batches,
    )
    return end_workers_at_exit(loader)


def _note_broken(loaded: LoadedBatch, known: dict, treatment: str) -> None:
    for image_id, error in loaded.broken:
        if error.path not in known:
            known[error.path] = (image_id, error)
            logger.warning("image %d, %s: %s", image_id, error, treatment)

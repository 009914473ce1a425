"""From rows to batches: broken pictures are replaced in training, left out in testing.

A training sample depends on the seed and its position in the run alone, as in
``comics.data.dataset``. Shape letters: B samples; S side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from comics.data.compression import compress_image, jpeg
from comics.data.dataset import AUGMENTATION, LoadedBatch, tolerated_broken, too_many_broken
from comics.data.faces.manifest import UNKNOWN, Manifest
from comics.data.faces.samples import FaceReader, FaceSample, SampleMaker
from comics.data.images import ImageError, image_to_tensor
from comics.structures import REAL, FaceBatch

Broken = list[tuple[int, ImageError]]


class FaceTrainDataset(Dataset):
    """Augmented samples, by (position in the run, position among ``rows``).

    A row whose picture is broken is replaced by the next readable one of the same label.

    Args:
        maker: makes the sample of a row.
        seed: of all augmentation.
        rows: the rows that samples start from; None: all.
        pairs: positions 2 i and 2 i + 1 are a pair, which is augmented alike.
    """

    def __init__(
        self, maker: SampleMaker, seed: int, rows: np.ndarray | None = None, pairs: bool = False
    ) -> None:
        self._maker, self._seed, self._pairs = maker, seed, pairs
        self._rows = np.arange(len(maker.manifest)) if rows is None else rows
        self._labels = maker.manifest.labels[self._rows]
        self._tolerated = tolerated_broken(len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[FaceSample, Broken]:
        """The sample, and the (row, error) of pictures that were passed over for it.

        Raises:
            DatasetError: if too many rows in a row are broken.
        """
        position, index = key
        broken: Broken = []
        for step in range(len(self)):
            place = (index + step) % len(self)
            if self._labels[place] != self._labels[index]:
                continue
            row = int(self._rows[place])
            try:
                sample = self._maker(row, np.random.default_rng(self._stream(position)))
                return sample, broken + sample.broken
            except ImageError as error:
                broken.append((row, error))
            if len(broken) > self._tolerated:
                break
        raise too_many_broken(broken, len(self))

    def _stream(self, position: int) -> tuple[int, int, int]:
        return self._seed, AUGMENTATION, position - position % 2 if self._pairs else position


class FaceTestDataset(Dataset):
    """Crops as they are evaluated, by row: nothing drawn; None for a broken picture.

    Args:
        manifest, reader: the rows, and how they are cut.
        jpeg_quality: compress the pictures so, as whole ones, before faces are cut; 0 = off.
        crf: the same by H.264 of this constant rate factor, before that; -1 = off.
        with_masks: also read masks.
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: FaceReader,
        *,
        jpeg_quality: int = 0,
        crf: int = -1,
        with_masks: bool = False,
    ) -> None:
        self._manifest, self._reader = manifest, reader
        self._jpeg_quality, self._crf, self._with_masks = jpeg_quality, crf, with_masks

    def __len__(self) -> int:
        return len(self._manifest)

    def __getitem__(self, index: int) -> tuple[FaceSample | None, Broken]:
        """The sample, and the error of its picture."""
        row = self._manifest[index]
        try:
            image = self._reader.crop(row, codec=self._compressed)
            mask = self._reader.mask(row) if self._with_masks else None
        except ImageError as error:
            return None, [(index, error)]
        return FaceSample(image, index, mask=mask), []

    def _compressed(self, picture: np.ndarray) -> np.ndarray:
        """What the codecs under test leave of a whole picture."""
        if self._crf >= 0:
            picture = compress_image(picture, self._crf)
        if self._jpeg_quality:
            picture = jpeg(picture, self._jpeg_quality)
        return picture


@dataclass(frozen=True)
class FaceCollate:
    """Puts samples together; a class, so that worker processes can be sent it.

    Attributes:
        manifest: what rows' numbers refer to.
        method_numbers: [names of methods] int64, the number that ``FaceBatch.methods`` gives to
            each position in ``manifest.names["method"]``; the last entry is that of an unknown one.
        views: names of the views.
        with_masks: whether the batch has masks.
        twin_method: number of the method of samples with a label of their own; -1 unknown.
    """

    manifest: Manifest
    method_numbers: np.ndarray
    views: tuple[str, ...] = ()
    with_masks: bool = False
    twin_method: int = -1

    def __call__(self, items: Sequence[tuple[FaceSample | None, Broken]]) -> LoadedBatch:
        """A batch; None stands for a row that is left out, a twin follows its sample."""
        broken = [entry for _, passed_over in items for entry in passed_over]
        found = [sample for sample, _ in items if sample is not None]
        samples = [one for sample in found for one in (sample, sample.twin) if one is not None]
        if not samples:
            return LoadedBatch(None, broken)
        manifest, rows = self.manifest, np.array([sample.row for sample in samples])
        views = {name: [sample.views[name] for sample in samples] for name in self.views}
        valid = {name: _known(pictures) for name, pictures in views.items()}
        masks = None
        if self.with_masks:
            known = [sample.mask for sample in samples]
            masks, valid["mask"] = _stack_masks(known, samples[0].image.shape[:2]), _known(known)
        own = np.array([sample.label is not None for sample in samples])
        labels, methods = manifest.labels[rows], self.method_numbers[manifest.codes["method"][rows]]
        batch = FaceBatch(
            images=torch.stack([image_to_tensor(sample.image) for sample in samples]),
            labels=_integers(np.where(own, [sample.label or 0 for sample in samples], labels)),
            views={name: _stack(pictures, samples) for name, pictures in views.items()},
            valid=valid,
            masks=masks,
            methods=_integers(np.where(own, self.twin_method, methods)),
            clusters=_integers(manifest.clusters[rows]),
            # Another clip than the real one: a forgery has a clip of its own
            videos=_integers(np.where(own, UNKNOWN, manifest.codes["video"][rows])),
            sources=_integers(manifest.codes["source"][rows]),
            targets=_integers(manifest.codes["target"][rows]),
            file_names=[manifest[int(row)].path for row in rows],
        )
        return LoadedBatch(batch, broken)


def number_methods(manifest: Manifest, methods: Sequence[str]) -> np.ndarray:
    """``FaceCollate.method_numbers``: 0 real, i for the i-th of ``methods``, -1 for others."""
    numbers = {name: number for number, name in enumerate(methods, 1)} | {"real": REAL}
    known = [numbers.get(name, -1) for name in manifest.names["method"]]
    return np.array([*known, -1], np.int64)


def _integers(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _known(pictures: Sequence[np.ndarray | None]) -> Tensor:
    return torch.tensor([picture is not None for picture in pictures])


def _stack(pictures: Sequence[np.ndarray | None], samples: Sequence[FaceSample]) -> Tensor:
    """[B, 3, S, S] uint8; zero where there is no picture."""
    tensors = [
        image_to_tensor(np.zeros_like(sample.image) if picture is None else picture)
        for picture, sample in zip(pictures, samples, strict=True)
    ]
    return torch.stack(tensors)


def _stack_masks(masks: Sequence[np.ndarray | None], size: tuple[int, int]) -> Tensor:
    """[B, S, S] bool; empty where a mask is unknown."""
    return torch.stack(
        [torch.from_numpy(np.zeros(size, bool) if mask is None else mask) for mask in masks]
    )

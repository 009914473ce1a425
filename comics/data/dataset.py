"""From records to training samples: decoding, geometry, photometric views.

A sample depends on the seed and on its position in the run alone, so that the number of workers
changes nothing and a resumed run continues exactly as the interrupted one.

Shape letters: H, W height and width of a sample.
"""

from __future__ import annotations

import atexit
import pickle
import signal
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from comics.data.images import DEFAULT_MAX_PIXELS, ImageError, image_to_tensor, read_image
from comics.data.mosaic import NO_MOSAIC, Mosaic
from comics.data.records import DatasetError, ImageRecord
from comics.data.transforms import Geometry
from comics.data.validation import TOLERATED_BROKEN, size_mismatch, tolerated_broken
from comics.data.views import View
from comics.structures import DetectionBatch, Faces

Photo = tuple[ImageRecord, np.ndarray]  # a record and its image, [H, W, 3] uint8 RGB

ORDER, AUGMENTATION = 0, 1  # streams of random numbers that one seed gives
WORKER_GRACE_SECONDS = 20  # a loader process lives on after a stop signal, until it is dismissed


class PackedRecords(Sequence[ImageRecord]):
    """Records as bytes in one array.

    A list of objects is copied page by page into every worker, because reading an object writes
    its reference count; one array of bytes is shared for good.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.array(bytearray(b"".join(packed)), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].data)


@dataclass(frozen=True)
class Sample:
    """One image of a batch.

    Attributes:
        image: [3, H, W] uint8 RGB.
        key_image: the second view, same size; None where none is asked for.
        faces: ground truth in the coordinates of ``image``.
        record: where it came from.
    """

    image: Tensor
    key_image: Tensor | None
    faces: Faces
    record: ImageRecord


@dataclass(frozen=True)
class LoadedBatch:
    """What a worker hands over: the batch, and the images that could not be read for it.

    Attributes:
        batch: of the kind that ``collate`` makes; None if nothing could be read (testing only).
        broken: (record's image id, error) of each image that was replaced or skipped.
    """

    batch: Any
    broken: list[tuple[int, ImageError]]

    def pin_memory(self) -> LoadedBatch:
        """The batch in page-locked memory; a loader of PyTorch's calls this."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


def read_record(record: ImageRecord, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode a record's image: [H, W, 3] uint8 RGB.

    Raises:
        ImageError: if it cannot be read, or is not of the size that its annotations are for.
    """
    image = read_image(record.path, max_pixels)
    if image.shape[:2] != (record.height, record.width):
        raise ImageError(record.path, size_mismatch(record, *image.shape[:2]))
    return image


class TrainDataset(Dataset):
    """Augmented samples, by (position in the run, index of the record).

    A broken image is replaced by the next readable record (decision: the step keeps its size, and
    the choice depends on the set alone); more than ``tolerated_broken`` in a row end the run.

    Args:
        records: images to train on.
        geometry: joint geometry, shared by both views.
        view: photometric augmentation, drawn for each view on its own; None: none. Then the key
            view, if asked for, is the image itself.
        seed: of all augmentation.
        with_masks: draw the masks of the faces.
        with_key_view: also make the second view.
        max_pixels: larger images count as broken.
        mosaic: lay samples on squares of one size.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        geometry: Geometry,
        view: View | None,
        seed: int,
        with_masks: bool = True,
        with_key_view: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        mosaic: Mosaic = NO_MOSAIC,
    ) -> None:
        self.records = PackedRecords(records)
        self.tolerated_broken = tolerated_broken(len(records))
        self._geometry, self._view, self._seed = geometry, view, seed
        self._with_masks, self._with_key_view = with_masks, with_key_view
        self._max_pixels, self._mosaic = max_pixels, mosaic

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample, list[tuple[int, ImageError]]]:
        """The sample, and the images that were passed over for it."""
        position, index = key
        rng = np.random.default_rng((self._seed, AUGMENTATION, position))
        photos, broken = self._photos(index, rng)
        sample = augment(
            photos,
            rng,
            geometry=self._geometry,
            view=self._view,
            with_masks=self._with_masks,
            with_key_view=self._with_key_view,
            mosaic=self._mosaic,
        )
        return sample, broken

    def _photos(
        self, index: int, rng: np.random.Generator
    ) -> tuple[list[Photo], list[tuple[int, ImageError]]]:
        """The photo of that index, and others drawn beside it where a mosaic needs them."""
        others = self._mosaic.photos(rng) - 1
        indices = [index, *(int(other) for other in rng.integers(0, len(self), others))]
        photos, broken = [], []
        for wanted in indices:
            record, image, passed_over = self._read_from(wanted)
            photos.append((record, image))
            broken += passed_over
        return photos, broken

    def _read_from(
        self, index: int
    ) -> tuple[ImageRecord, np.ndarray, list[tuple[int, ImageError]]]:
        broken: list[tuple[int, ImageError]] = []
        for step in range(len(self)):
            record = self.records[(index + step) % len(self)]
            try:
                return record, read_record(record, self._max_pixels), broken
            except ImageError as error:
                broken.append((record.image_id, error))
            if len(broken) > self.tolerated_broken:
                break
        raise too_many_broken(broken, len(self))


def augment(
    photos: Sequence[Photo],
    rng: np.random.Generator,
    *,
    geometry: Geometry,
    view: View | None,
    with_masks: bool = True,
    with_key_view: bool = False,
    mosaic: Mosaic = NO_MOSAIC,
) -> Sample:
    """The training sample of a decoded photo, or of several; arguments as of ``TrainDataset``.

    Args:
        photos: the sample's record with its image, [H, W, 3] uint8 RGB as ``read_record`` gives
            it; after it those that ``mosaic`` lays beside it.
        rng: what everything is drawn from, geometry first, then the query and the key view.
        geometry, view, with_masks, with_key_view, mosaic: as of ``TrainDataset``.
    """
    record = photos[0][0]
    moved = [geometry(image, found.ground_truth(with_masks), rng) for found, image in photos]
    image, faces = mosaic.lay(moved, rng)
    if faces.masks is not None:
        faces = replace(faces, masks=faces.masks.contiguous())
    if view is None:
        tensor = image_to_tensor(image)
        return Sample(tensor, tensor if with_key_view else None, faces, record)
    query = image_to_tensor(view(image, rng))
    key = image_to_tensor(view(image, rng)) if with_key_view else None
    return Sample(query, key, faces, record)


class TestDataset(Dataset):
    """Samples as they are evaluated, by index: resized, nothing drawn; None for a broken image."""

    __test__ = False  # the name is no test's

    def __init__(
        self,
        records: Sequence[ImageRecord],
        geometry: Geometry,
        with_masks: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.records = PackedRecords(records)
        self._geometry, self._with_masks, self._max_pixels = geometry, with_masks, max_pixels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Sample | None, list[tuple[int, ImageError]]]:
        record = self.records[index]
        try:
            image = read_record(record, self._max_pixels)
        except ImageError as error:
            return None, [(record.image_id, error)]
        faces = record.ground_truth(self._with_masks)
        image, faces = self._geometry(image, faces, np.random.default_rng(0))
        return Sample(image_to_tensor(image), None, faces, record), []


def collate(
    items: Sequence[tuple[Sample | None, list[tuple[int, ImageError]]]],
) -> LoadedBatch:
    """Put samples together; None stands for an image that is left out."""
    broken = [entry for _, passed_over in items for entry in passed_over]
    samples = [sample for sample, _ in items if sample is not None]
    if not samples:
        return LoadedBatch(None, broken)
    # All samples have one, or none has
    keys = [sample.key_image for sample in samples if sample.key_image is not None]
    batch = DetectionBatch(
        images=[sample.image for sample in samples],
        targets=[sample.faces for sample in samples],
        key_images=keys or None,
        image_ids=[sample.record.image_id for sample in samples],
        file_names=[str(sample.record.path) for sample in samples],
        original_sizes=[(sample.record.height, sample.record.width) for sample in samples],
    )
    return LoadedBatch(batch, broken)


def too_many_broken(broken: Sequence[tuple[int, ImageError]], images: int) -> DatasetError:
    """The error for that; names the first few."""
    shown = "\n  ".join(f"image {number}: {error}" for number, error in broken[:TOLERATED_BROKEN])
    return DatasetError(
        f"{len(broken)} of {images} images cannot be used (at most {tolerated_broken(images)} are "
        f"replaced), the first:\n  {shown}\ncomics check lists them all"
    )


def start_worker(worker_id: int) -> None:
    """What a loader process does first."""
    limit_threads()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _outlive_signal)


def _outlive_signal(signum: int, frame: object) -> None:
    """A scheduler, or Ctrl-C, signals the main process too: let it finish its step first."""
    signal.alarm(WORKER_GRACE_SECONDS)


_open_loaders: weakref.WeakSet[DataLoader] = weakref.WeakSet()


def end_workers_at_exit(loader: DataLoader) -> DataLoader:
    """The same loader, whose processes end before the interpreter looks for them.

    A program that ends by an error would else wait for them, since they outlive signals, and end
    with a second traceback, of a process that was killed.
    """
    _open_loaders.add(loader)
    return loader


@atexit.register  # after multiprocessing's own function, so before it at the exit
def _end_workers() -> None:
    for loader in list(_open_loaders):
        iterator = getattr(loader, "_iterator", None)  # of a loader with lasting workers
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


def limit_threads() -> None:
    """One thread per loader process: many small operations only get in each other's way."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

"""Our data sets in Detectron2's catalogs, and its loaders with our transforms and views.

Two ways lead to a training loader. ``build_train_inputs`` hands out our own loader's batches: the
order, the augmentation and the treatment of unreadable images are the native runtime's.
``ComicsDatasetMapper`` is for Detectron2's loaders (``build_detection_train_loader(cfg,
mapper=...)``): the same transforms, drawn from the loader process's own generator.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import Tensor

from comics.data.catalog import DatasetFiles, dataset_files, datasets_root
from comics.data.coco_parser import parse_coco
from comics.data.dataset import augment, read_record
from comics.data.images import ImageError, image_to_tensor
from comics.data.loader import (
    build_test_loader,
    build_train_loader,
    needs_key_view,
    training_view,
)
from comics.data.records import DatasetError, FaceAnnotation, ImageRecord
from comics.data.transforms import Geometry, evaluation_geometry, training_geometry
from comics.data.views import View
from comics.engine import distributed
from comics.integrations.detectron2.instances import batch_to_inputs, sample_to_input
from comics.ops.masks import segmentation_to_rle
from comics.structures import CLASS_NAMES, FAKE, REAL, DetectionBatch, Faces

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "comics"  # of the metadata
LARGEST_SEED = 2**63 - 1


def register_datasets(cfg: CfgNode, entries: Sequence[str] | None = None) -> None:
    """Enter sets into the catalogs.

    An entry that is there already is left as it is, unless it is ours and its files have moved.

    Args:
        cfg: ``DATASETS`` is read.
        entries: registered names or annotation files; None: all of ``DATASETS.TRAIN``, ``VAL`` and
            ``TEST``.

    Raises:
        KeyError, DatasetError: for an entry that does not exist.
    """
    root = datasets_root(cfg)
    if entries is None:
        entries = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST]
    for entry in dict.fromkeys(entries):
        if entry not in DatasetCatalog:
            register_faces(entry, dataset_files(entry, root))
        elif MetadataCatalog.get(entry).get("evaluator_type") == EVALUATOR_TYPE:
            files = dataset_files(entry, root)
            if registered_files(entry) != files:
                DatasetCatalog.remove(entry)
                MetadataCatalog.remove(entry)
                register_faces(entry, files)


def register_faces(name: str, files: DatasetFiles) -> None:
    """Enter one set, as ``register_coco_instances`` does; nothing is read before it is needed.

    Args:
        name: in ``DatasetCatalog`` and ``MetadataCatalog``.
        files: COCO annotations of faces, and their images.
    """
    DatasetCatalog.register(name, lambda: load_dicts(name, files))
    MetadataCatalog.get(name).set(
        thing_classes=list(CLASS_NAMES),
        json_file=str(files.annotations),
        image_root=str(files.image_root),
        evaluator_type=EVALUATOR_TYPE,
    )


def registered_files(name: str) -> DatasetFiles:
    """The files behind a name of ``register_faces``, or of ``register_coco_instances``.

    Raises:
        DatasetError: for a name without them in its metadata.
    """
    metadata = MetadataCatalog.get(name)
    try:
        return DatasetFiles(Path(metadata.json_file), Path(metadata.image_root))
    except AttributeError as error:
        raise DatasetError(f"dataset {name!r} is not registered with COCO annotations") from error


def entry_of(name: str) -> str:
    """The entry that our loaders know a name of the catalogs by.

    Sets of ``register_coco_instances`` are known to Detectron2 alone; ours are read by us, so they
    are named by their files.

    Raises:
        DatasetError: for a set without COCO annotations in its metadata.
    """
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    if metadata is None or metadata.get("evaluator_type") == EVALUATOR_TYPE:
        return name
    files = registered_files(name)
    return f"{files.annotations}@{files.image_root}"


def load_dicts(name: str, files: DatasetFiles) -> list[dict[str, Any]]:
    """The images of a set in Detectron2's form.

    Raises:
        DatasetError: if the annotation file cannot be used.
    """
    coco = parse_coco(*files)
    if coco.errors:
        raise DatasetError(f"{files.annotations} cannot be used: {coco.errors[0]}")
    contiguous = dict(zip(coco.category_ids, (REAL, FAKE), strict=True))
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id=contiguous)
    return [record_to_dict(record) for record in coco.records]


def record_to_dict(record: ImageRecord) -> dict[str, Any]:
    """One of our records as a dictionary of Detectron2's standard form."""
    return {
        "file_name": str(record.path),
        "height": record.height,
        "width": record.width,
        "image_id": record.image_id,
        "annotations": [_annotation(face, record) for face in record.faces],
    }


def dict_to_record(item: Mapping[str, Any]) -> ImageRecord:
    """The way back, also from other sets of Detectron2's; "category_id" is 0 real, 1 fake."""
    faces = [
        FaceAnnotation(
            annotation_id=annotation.get("id", position),
            box=tuple(
                BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            ),
            label=annotation["category_id"],
            segmentation=annotation.get("segmentation"),
            iscrowd=bool(annotation.get("iscrowd", 0)),
        )
        for position, annotation in enumerate(item.get("annotations", []))
    ]
    return ImageRecord(
        image_id=item["image_id"],
        file_name=item["file_name"],
        root="",
        height=item["height"],
        width=item["width"],
        faces=tuple(faces),
    )


class ComicsDatasetMapper:
    """From a dictionary of a set to a model's input: ``DatasetMapper`` with our transforms.

    Args:
        is_train: augment, and add "instances"; else resize only.
        geometry: see ``comics.data.transforms``.
        view: photometric augmentation; None: none.
        with_masks: add the faces' masks, as bitmaps.
        with_key_view: add "key_image", the second view.
        image_format: channel order of the images.
        max_pixels: larger images are not decoded.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        geometry: Geometry,
        view: View | None = None,
        with_masks: bool = True,
        with_key_view: bool = False,
        image_format: str = "RGB",
        max_pixels: int,
    ) -> None:
        self.is_train = is_train
        self.geometry = geometry
        self.view = view
        self.with_masks = with_masks
        self.with_key_view = with_key_view
        self.image_format = image_format
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments from ``INPUT``, ``MODEL.MASK_ON`` and ``MODEL.COMICS``.

        Raises:
            ValueError: for training with ``INPUT.MOSAIC``, which needs several photos at a time.
        """
        if is_train and cfg.INPUT.MOSAIC.SIZE > 0:
            raise ValueError(
                f"INPUT.MOSAIC.SIZE is {cfg.INPUT.MOSAIC.SIZE}, but ComicsDatasetMapper takes one "
                "photo at a time: set it to 0, or use build_train_inputs, the loader of the usual "
                "DATALOADER.SAMPLER_TRAIN"
            )
        return {
            "is_train": is_train,
            "geometry": training_geometry(cfg) if is_train else evaluation_geometry(cfg),
            "view": training_view(cfg),
            "with_masks": cfg.MODEL.MASK_ON,
            "with_key_view": needs_key_view(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "max_pixels": cfg.INPUT.MAX_PIXELS,
        }

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The input; in training None for an image that cannot be read (Detectron2 takes another).

        Raises:
            ImageError: for such an image in testing.
        """
        record = dict_to_record(item)
        # Detectron2 seeds PyTorch's generator in each of its loader processes
        rng = np.random.default_rng(int(torch.randint(LARGEST_SEED, ())))
        try:
            image = read_record(record, self.max_pixels)
        except ImageError as error:
            if not self.is_train:
                raise
            logger.warning("image %s, %s: replaced by another", record.image_id, error)
            return None
        if not self.is_train:
            resized, _ = self.geometry(image, record.ground_truth(with_masks=False), rng)
            return self._input(image_to_tensor(resized), None, None, record)
        sample = augment(
            [(record, image)],
            rng,
            geometry=self.geometry,
            view=self.view,
            with_masks=self.with_masks,
            with_key_view=self.with_key_view,
        )
        return self._input(sample.image, sample.key_image, sample.faces, record)

    def _input(
        self,
        image: Tensor,
        key_image: Tensor | None,
        faces: Faces | None,
        record: ImageRecord,
    ) -> dict[str, Any]:
        return sample_to_input(
            image,
            key_image,
            faces,
            image_format=self.image_format,
            image_id=record.image_id,
            file_name=record.file_name,
            original_size=(record.height, record.width),
        )


class Inputs:
    """One of our loaders, whose batches are Detectron2's lists of dictionaries.

    Args:
        loader: a ``TrainLoader`` or ``TestLoader``.
        image_format: channel order to write.
        with_instances: add the ground truth.

    Attributes:
        loader: as given; it knows the images that could not be read.
    """

    def __init__(
        self, loader: Iterable[DetectionBatch], image_format: str, *, with_instances: bool
    ) -> None:
        self.loader: Any = loader  # the two have not all attributes in common
        self._image_format = image_format
        self._with_instances = with_instances

    def __len__(self) -> int:
        """Batches, of a ``TestLoader``."""
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """As the loader."""
        for batch in self.loader:
            yield batch_to_inputs(batch, self._image_format, with_instances=self._with_instances)


def build_train_inputs(cfg: CfgNode, start_iteration: int = 0) -> Inputs:
    """This process's share of the training batches, from an iteration on; errors as ours."""
    entries = [entry_of(name) for name in cfg.DATASETS.TRAIN]
    loader = build_train_loader(
        cfg, start_iteration, distributed.rank(), distributed.world_size(), entries
    )
    return Inputs(loader, cfg.INPUT.FORMAT, with_instances=True)


def build_test_inputs(cfg: CfgNode, entry: str) -> Inputs:
    """This process's share of a set to test on; errors as ours."""
    rank, world_size = distributed.rank(), distributed.world_size()
    loader = build_test_loader(cfg, entry_of(entry), rank, world_size)
    return Inputs(loader, cfg.INPUT.FORMAT, with_instances=False)


def _annotation(face: FaceAnnotation, record: ImageRecord) -> dict[str, Any]:
    segmentation = face.segmentation
    if segmentation is None:  # as in ``ImageRecord.ground_truth``: the face's box is its mask
        x0, y0, x1, y1 = face.box
        segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    elif isinstance(segmentation, Mapping):
        segmentation = segmentation_to_rle(segmentation, record.height, record.width)
    return {
        "id": face.annotation_id,
        "bbox": list(face.box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": face.label,
        "segmentation": segmentation,
        "iscrowd": int(face.iscrowd),
    }

"""Lists every fault of a multi-face set: of its annotation file, and of every image file.

The reader (``comics.data.coco``) uses the same parser, so what is listed here is what it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from comics.data.coco_parser import parse_coco
from comics.data.faults import ERROR, Fault
from comics.data.images import DEFAULT_MAX_PIXELS, ImageError, read_image, read_image_size
from comics.data.records import ImageRecord
from comics.ops.masks import segmentation_to_bitmap

UNUSABLE_IMAGES = frozenset({"missing-image", "unreadable-image", "size-mismatch"})
# Faults of a set that can be tested on, but that training refuses
UNTRAINABLE = frozenset({"no-faces", "too-many-unusable-images"})
# Training stops when more images are broken than the larger of a number and a share of the set
TOLERATED_BROKEN = 8
TOLERATED_BROKEN_SHARE = 0.01


def tolerated_broken(images: int) -> int:
    """How many broken images a set of that size may have before training stops."""
    return max(TOLERATED_BROKEN, int(images * TOLERATED_BROKEN_SHARE))


@dataclass(frozen=True)
class ValidationReport:
    """The faults of one set, and what there is besides.

    Attributes:
        source: the annotation file.
        images, faces: how many the reader keeps, images that cannot be opened included.
        faults: all of them, those of the annotation file first.
    """

    source: str
    images: int
    faces: int
    faults: list[Fault]

    @property
    def usable(self) -> bool:
        """Whether the reader accepts the set."""
        return all(fault.severity != ERROR for fault in self.faults)

    @property
    def trainable(self) -> bool:
        """Whether training accepts it too."""
        return self.usable and all(fault.code not in UNTRAINABLE for fault in self.faults)

    def as_dict(self) -> dict:
        """All of it, for JSON."""
        return {
            "source": self.source,
            "usable": self.usable,
            "trainable": self.trainable,
            "images": self.images,
            "faces": self.faces,
            "faults": [fault.as_dict() for fault in self.faults],
        }


class Validation:
    """The pass over one set: ``len`` is its number of images, iterating checks one at a time.

    Args:
        json_path: COCO annotation file.
        image_root: folder that file names start from; None: the annotation file's own folder.
        decode: read every pixel and draw every mask; False reads the headers of the images only.
        max_pixels: larger images are reported as unreadable (INPUT.MAX_PIXELS).
        workers: threads that read images.
    """

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike | None = None,
        decode: bool = True,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        workers: int = 1,
    ) -> None:
        self._coco = parse_coco(json_path, image_root)
        self._check = partial(check_image, decode=decode, max_pixels=max_pixels)
        self._workers = workers

    def __len__(self) -> int:
        return len(self._coco.records)

    def __iter__(self) -> Iterator[list[Fault]]:
        """The faults of each image, in the order of the file."""
        with ThreadPoolExecutor(self._workers) as pool:
            yield from pool.map(self._check, self._coco.records)

    def report(self, image_faults: list[list[Fault]]) -> ValidationReport:
        """Put the faults of the file and those of its images together."""
        records, faults = self._coco.records, list(self._coco.faults)
        unusable = sum(any(f.code in UNUSABLE_IMAGES for f in found) for found in image_faults)
        if unusable == len(records):
            message = f"none of its {len(records)} images can be used"
            faults.append(Fault("no-usable-image", self._coco.source, message))
        elif unusable > tolerated_broken(len(records)):
            message = f"{unusable} of its {len(records)} images cannot be used"
            faults.append(Fault("too-many-unusable-images", self._coco.source, message))
        faults += [fault for found in image_faults for fault in found]
        faces = sum(len(record.faces) for record in records)
        return ValidationReport(self._coco.source, len(records), faces, faults)


def validate(
    json_path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    decode: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    workers: int = 1,
) -> ValidationReport:
    """Check a whole set; arguments as ``Validation``."""
    validation = Validation(json_path, image_root, decode, max_pixels, workers)
    return validation.report(list(validation))


def check_image(
    record: ImageRecord, decode: bool = True, max_pixels: int = DEFAULT_MAX_PIXELS
) -> list[Fault]:
    """The faults of one image file, and of the masks drawn at its size."""
    say = partial(Fault, file=str(record.path), image_id=record.image_id)
    if not record.path.exists():
        return [say("missing-image", message="no such file")]
    try:
        if decode:
            height, width = read_image(record.path, max_pixels).shape[:2]
        else:
            height, width = read_image_size(record.path, max_pixels)
    except ImageError as error:
        return [say("unreadable-image", message=error.reason)]
    if (height, width) != (record.height, record.width):
        return [say("size-mismatch", message=size_mismatch(record, height, width))]
    if not decode:
        return []
    return [
        say("mask-empty", message="no pixel is in the mask", annotation_id=face.annotation_id)
        for face in record.faces
        if face.segmentation is not None
        and not segmentation_to_bitmap(face.segmentation, height, width).any()
    ]


def size_mismatch(record: ImageRecord, height: int, width: int) -> str:
    """Says how the size of a file differs from its record's."""
    said = f"the file is {width} x {height}, the annotations say {record.width} x {record.height}"
    if (height, width) == (record.width, record.height):
        said += " (made without regard to its EXIF orientation?)"
    return said

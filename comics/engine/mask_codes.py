"""Computes the basis of MEInst's mask codes from the masks of a training set.

Incremental PCA over the faces' masks, cropped with their boxes to m x m cells (Zhang et al. 2020,
arXiv:2003.11712, section 3.1): the same crops, and the same logits, that training encodes. No image
is opened.

Shape letters: F faces; m side of a mask; D coefficients of a code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import IncrementalPCA
from torch import Tensor

from comics.data.records import ImageRecord
from comics.files import atomic_path
from comics.modeling.detectors.meinst.coding import (
    FILE_KEYS,
    FILE_RATIOS,
    FILE_SIGMOID,
    MaskBasis,
    MaskCoding,
    cosine_basis,
    soft_logits,
)
from comics.ops.masks import segmentation_to_bitmap
from comics.ops.roi_masks import crop_and_resize

BATCH = 1024  # faces per step of the incremental PCA, or D where that is more
SAMPLE = 2000  # faces, spread over the set, that the quality of the basis is measured on


@dataclass(frozen=True)
class FaceMasks:
    """The masks of one image.

    Attributes:
        crops: [F, m, m] bool.
        left_out: what became of faces without a mask: a line for each, naming its id.
    """

    crops: Tensor
    left_out: list[str]


@dataclass(frozen=True)
class MaskCodes:
    """A basis, and how well it describes the masks that it was made from.

    Attributes:
        basis: D components.
        ratios: [D] shares of the variance.
        faces: F.
        iou: mean overlap, in [0, 1], of a mask with what its code decodes to.
        cosine_iou: the same of the discrete cosine basis, which needs no file.
    """

    basis: MaskBasis
    ratios: Tensor
    faces: int
    iou: float
    cosine_iou: float


def face_masks(record: ImageRecord, size: int) -> FaceMasks:
    """Masks of an image's faces within their boxes, m x m; crowd regions are not faces."""
    bitmaps, boxes, left_out = [], [], []
    for face in record.targets:
        bitmap = None
        if face.segmentation is not None:
            bitmap = segmentation_to_bitmap(face.segmentation, record.height, record.width)
        if bitmap is None or not bitmap.any():
            fault = "no segmentation" if bitmap is None else "an empty mask"
            left_out.append(
                f"{record.path}, image {record.image_id}, annotation {face.annotation_id}: {fault}"
            )
            continue
        bitmaps.append(bitmap)
        boxes.append(face.box)
    if not bitmaps:
        return FaceMasks(torch.zeros((0, size, size), dtype=torch.bool), left_out)
    return FaceMasks(crop_and_resize(torch.stack(bitmaps), torch.tensor(boxes), size), left_out)


class MaskCodeFit:
    """Incremental PCA of masks that arrive a few at a time; memory does not grow with their number.

    Args:
        dim: D.
        size: m.
        sigmoid: of the masks' logits (``MODEL.MEInst.SIGMOID``); else of the masks themselves.
        seed: of the random part of the logits.
        batch: faces per step.

    Raises:
        ValueError: if D is not 1 to m * m.
    """

    def __init__(
        self, dim: int, size: int, *, sigmoid: bool = True, seed: int = 0, batch: int = BATCH
    ) -> None:
        if size < 1 or not 0 < dim <= size**2:
            raise ValueError(f"a mask of {size} x {size} has no code of {dim} coefficients")
        self._dim, self._size, self._sigmoid = dim, size, sigmoid
        self._batch = max(batch, dim)
        self._pca = IncrementalPCA(n_components=dim)
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting: list[Tensor] = []
        self._sample: list[Tensor] = []
        self._step = 1  # every how many-th face enters the sample
        self._faces = 0

    def add(self, crops: Tensor) -> None:
        """Take in crops [F, m, m] bool."""
        flat = crops.flatten(1)
        for row in flat:
            if self._faces % self._step == 0:
                self._sample.append(row)
            self._faces += 1
        while len(self._sample) >= 2 * SAMPLE:
            self._sample, self._step = self._sample[::2], 2 * self._step
        self._waiting.extend(flat)
        # A batch is kept back, so that the last one is never smaller than a batch
        while len(self._waiting) >= 2 * self._batch:
            self._fit(self._waiting[: self._batch])
            self._waiting = self._waiting[self._batch :]

    def finish(self) -> MaskCodes:
        """The basis of all masks so far.

        Raises:
            ValueError: if there were fewer masks than coefficients, or they do not vary enough.
        """
        if self._faces < max(2, self._dim):
            raise ValueError(
                f"{self._faces} faces with masks; {self._dim} coefficients need as many, better "
                f"thousands"
            )
        if self._waiting:
            self._fit(self._waiting)
            self._waiting = []
        variances = self._pca.explained_variance_
        smallest = np.finfo(np.float32).eps * variances[0]
        if not variances[-1] > smallest:
            usable = int((variances > smallest).sum())
            raise ValueError(
                f"the masks vary in {usable} ways only; they give no {self._dim} coefficients"
            )
        basis = MaskBasis(
            components=torch.from_numpy(self._pca.components_).float(),
            means=torch.from_numpy(self._pca.mean_).float(),
            variances=torch.from_numpy(variances).float(),
        )
        return MaskCodes(
            basis=basis,
            ratios=torch.from_numpy(self._pca.explained_variance_ratio_).float(),
            faces=self._faces,
            iou=self._overlap(basis),
            cosine_iou=self._overlap(cosine_basis(self._dim, self._size, sigmoid=self._sigmoid)),
        )

    def _fit(self, rows: Sequence[Tensor]) -> None:
        masks = torch.stack(list(rows))
        pixels = soft_logits(masks, self._generator) if self._sigmoid else masks.float()
        self._pca.partial_fit(pixels.numpy().astype(np.float64))

    def _overlap(self, basis: MaskBasis) -> float:
        """Mean IoU of the sampled masks with their decoded codes."""
        coding = MaskCoding(self._dim, self._size, sigmoid=self._sigmoid)
        coding.set_basis(basis)
        masks = torch.stack(self._sample).unflatten(1, (self._size, self._size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            decoded = coding.decode(coding.encode(masks)) >= 0.5
        both = (masks & decoded).sum(dim=(1, 2))
        return (both / (masks | decoded).sum(dim=(1, 2)).clamp(min=1)).mean().item()


def write_mask_codes(path: str | os.PathLike, codes: MaskCodes, *, sigmoid: bool) -> None:
    """Write the .npz file that ``MODEL.MEInst.PATH_COMPONENTS`` names, with AdelaiDet's keys.

    ``components_c`` [1, D, m * m], ``mean_c`` [1, m * m], ``explained_variance_c`` and ``ratio_c``
    [1, D], float32; and ``sigmoid``, whether the basis is of logits. A crash leaves either the
    old file or the new one.
    """
    arrays = {
        key: getattr(codes.basis, name).numpy()[None].astype(np.float32)
        for name, key in FILE_KEYS.items()
    }
    arrays[FILE_RATIOS] = codes.ratios.numpy()[None].astype(np.float32)
    arrays[FILE_SIGMOID] = np.asarray(sigmoid)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)

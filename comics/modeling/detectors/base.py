"""The contract of a detector, and what it hands to whoever adds losses to it.

A detector is split at its features, so that ``Comics`` can enhance them without knowing the
detector::

    images -> preprocess -> extract_features -> training_output | dense -> select -> drawn
                                  ^ Comics' frequency attention acts here

Inference is split again: ``dense`` is what convolutions do for whole images, ``select`` the rest,
whose shapes depend on what is found. So the first can be exported and run by another program, and
the second is the same code for both. Masks are late: ``select`` hands on candidates whose masks are
small and soft, and only those that are left in the end are drawn (``Candidates.drawn``).

Shape letters: B images; C channels; H, W padded height and width; h, w of a pyramid level;
P proposals; F faces of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.modeling.backbone import Pyramid
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.detectors.cells import image_of_each
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.structures import Faces, NotFiniteError


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images, padded on the right and at the bottom to one size.

    Attributes:
        tensor: [B, 3, H, W] float; padding is 0, after normalisation.
        sizes: (height, width) of each image before padding.
    """

    tensor: Tensor
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class LevelProposals:
    """The proposals of one pyramid level that belong to a ground-truth face.

    Attributes:
        image: [P] int64, position of the image in the batch.
        face: [P] int64, position of the face among that image's targets.
        boxes: [P, 4] predicted boxes, pixels of the (resized) image, detached.
        cells: [P] int64, row * w + column of the location in this level's map, for one-stage
            detectors; None for two-stage ones, whose feature is pooled from ``boxes``.
    """

    image: Tensor
    face: Tensor
    boxes: Tensor
    cells: Tensor | None


@dataclass(frozen=True)
class LevelBoxes:
    """Every proposal of one pyramid level, whatever it overlaps.

    Attributes:
        image, boxes, cells: as of ``LevelProposals``.
    """

    image: Tensor
    boxes: Tensor
    cells: Tensor | None


@dataclass(frozen=True)
class TrainingOutput:
    """What a detector computes in one training step.

    Attributes:
        losses: name -> scalar, already weighted; their sum is minimised.
        features: level name -> [B, C, h, w], the pyramid that the heads saw.
        proposals: level name -> the proposals of that level.
        mask_features: [B, C, h, w] map that the mask predictor decodes, or whatever
            ``Detector.roi_mask_features`` needs; None without masks.
        metrics: name -> scalar without gradient, for the log only.
    """

    losses: dict[str, Tensor]
    features: dict[str, Tensor]
    proposals: dict[str, LevelProposals] = field(default_factory=dict)
    mask_features: Any = None
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Detector(TrainingLifeCycle):
    """Base class: sizes, normalisation and the order of the steps; subclasses fill in the rest.

    Args:
        backbone: maps [B, 3, H, W] to a dict of level name -> [B, C, h, w].
        pixel_mean, pixel_std: three values each on the 0-255 scale, in the order ``pixel_format``.
        pixel_format: "RGB" or "BGR", the channel order that the weights expect.
        size_divisibility: padded sizes are multiples of this (largest bottom-up stride).

    Attributes:
        selection_parts: names of the submodules whose weights ``select`` uses.
        pooled_heads: those among them that see only features pooled from boxes, called with tensors
            and returning tensors of one row per box: networks of their own.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    selection_parts: tuple[str, ...] = ()
    pooled_heads: tuple[str, ...] = ()

    def __init__(
        self,
        backbone: Pyramid,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pixel_format: str = "RGB",
        size_divisibility: int = 32,
    ) -> None:
        super().__init__()
        if pixel_format not in ("RGB", "BGR"):
            raise ValueError(f"pixel_format must be 'RGB' or 'BGR', got {pixel_format!r}")
        self.backbone = backbone
        self.reserve_training_only()
        self.pixel_format = pixel_format
        self.size_divisibility = size_divisibility
        shape = (3, 1, 1)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(shape), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(shape), persistent=False)

    def preprocess(self, images: Sequence[Tensor]) -> ImageBatch:
        """Normalise RGB images on the 0-255 scale ([3, H_i, W_i], uint8 or float) and pad them."""
        check_images(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (
            -(-max(side) // self.size_divisibility) * self.size_divisibility
            for side in zip(*sizes, strict=True)
        )
        batch = self.pixel_mean.new_zeros(len(images), 3, height, width)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = self.normalise(image)
        return ImageBatch(batch, sizes)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB [..., 3, H, W] on the 0-255 scale to what the backbone expects, of the same shape."""
        ordered = images.flip(-3) if self.pixel_format == "BGR" else images
        return (ordered - self.pixel_mean) / self.pixel_std

    def extract_features(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Pyramid of features: level name -> [B, C, h, w]."""
        return self.backbone(batch.tensor)

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """Losses, and what the contrastive heads need."""
        raise NotImplementedError

    def dense(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """All that ``select`` needs of the images: name -> tensor, [B, ...] each.

        Convolutions and the like only: shapes follow from those of ``features``, never from values.
        Names are unique and their order is fixed; maps of levels are named by ``name_levels``.
        """
        raise NotImplementedError

    def select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Candidates of each image from what ``dense`` gives, suppressed, with undrawn masks.

        Args:
            dense: of B images.
            sizes: (height, width) of each image before padding.
        """
        raise NotImplementedError

    def pooled_example(
        self, head: str, count: int, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Random inputs of one of the ``pooled_heads``, for ``count`` boxes; on the CPU."""
        raise NotImplementedError

    def infer(
        self,
        features: dict[str, Tensor],
        batch: ImageBatch,
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Faces]:
        """Detections of each image, in an image of the (height, width) asked for.

        Raises:
            NotFiniteError: see ``checked_select``.
        """
        found = self.checked_select(self.dense(features), batch.sizes)
        return [one.drawn(size) for one, size in zip(found, output_sizes, strict=True)]

    def candidates(self, images: Sequence[Tensor]) -> list[Candidates]:
        """Detections of each image in its own pixels, their masks not drawn yet.

        For who merges or thresholds them first; ``forward`` draws them all.

        Args:
            images: as for ``forward``, in evaluation mode.

        Raises:
            NotFiniteError: see ``checked_select``.
        """
        batch = self.preprocess(images)
        return self.checked_select(self.dense(self.extract_features(batch)), batch.sizes)

    def checked_select(
        self, dense: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """``select``, which would pass over what is not finite as if it were no face.

        Raises:
            NotFiniteError: for a NaN in what ``dense`` or a pooled head gives, or for a detection
                that is not finite.
        """
        refuse_nan("the network", dense.values())

        def check(head: nn.Module, inputs: tuple, found: Tensor | tuple[Tensor, ...]) -> None:
            refuse_nan("a head", found if isinstance(found, tuple) else (found,))

        hooks = [self.get_submodule(h).register_forward_hook(check) for h in self.pooled_heads]
        try:
            found = self.select(dense, sizes)
        finally:
            for hook in hooks:
                hook.remove()
        finite = [one.isfinite().all() for f in found if len(f) for one in (f.boxes, f.scores)]
        if finite and not torch.stack(finite).all():
            raise NotFiniteError("a box or score that the model gives is not finite")
        return found

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """Mask-predictor features of boxes (one [F_i, 4] per image): [F, C, size, size]."""
        raise NotImplementedError

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """All proposals by level, without targets: for COMICS' rule ``MATCH`` "any" alone.

        Called in evaluation mode, without gradient, of the features of either view.
        """
        raise NotImplementedError

    def found(self, features: dict[str, Tensor], batch: ImageBatch) -> Sequence[Faces]:
        """Detections of each image in its own pixels, as ``Candidates`` or with their masks.

        Of features rather than images, and unchecked: what is not finite is no face here, and the
        losses tell of it.
        """
        return self.select(self.dense(features), batch.sizes)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Faces] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> TrainingOutput | list[Faces]:
        """Training mode: ``TrainingOutput``. Evaluation mode: one ``Faces`` per image.

        Args:
            images: RGB, 0-255, [3, H_i, W_i] each, of any sizes.
            targets: ground truth; needed in training mode, ignored in evaluation mode.
            output_sizes: (height, width) to express detections in; default: each image's own.

        Raises:
            ValueError: for a malformed image, missing targets, or a box without area.
        """
        batch = self.preprocess(images)
        if self.training:
            faces = check_targets(targets, batch.sizes)
            return self.training_output(self.extract_features(batch), batch, faces)
        return self.infer(self.extract_features(batch), batch, output_sizes or batch.sizes)


def refuse_nan(what: str, maps: Iterable[Tensor]) -> None:
    """Raise ``NotFiniteError`` for a NaN; one look for all maps, since a GPU waits for each."""
    flags = [one.isnan().any() for one in maps if one.is_floating_point()]
    if flags and torch.stack(flags).any():
        raise NotFiniteError(f"the values that {what} gives are not finite numbers (NaN)")


def name_levels(name: str, levels: Sequence[str], maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Maps of a pyramid's levels as entries of ``Detector.dense``: "<name>_<level>" -> map."""
    return {f"{name}_{level}": one for level, one in zip(levels, maps, strict=True)}


def levels_named(dense: dict[str, Tensor], name: str, levels: Sequence[str]) -> list[Tensor]:
    """The maps that ``name_levels`` has named, in the order of the levels."""
    return [dense[f"{name}_{level}"] for level in levels]


def check_images(images: Sequence[Tensor]) -> None:
    """Raise ``ValueError``, naming the image, unless all are [3, H, W] with at least one pixel."""
    for position, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(
                f"image {position} of the batch must be [3, H, W], got {tuple(image.shape)}"
            )


def check_targets(
    targets: Sequence[Faces] | None, sizes: Sequence[tuple[int, int]]
) -> Sequence[Faces]:
    """The targets; a ``ValueError`` names image and box unless they fit images of those sizes."""
    if targets is None or len(targets) != len(sizes):
        given = "none" if targets is None else len(targets)
        raise ValueError(f"training needs a target per image: {len(sizes)} images, {given} targets")
    for position, (faces, size) in enumerate(zip(targets, sizes, strict=True)):
        if tuple(faces.image_size) != tuple(size):
            raise ValueError(
                f"target {position} is for an image of {faces.image_size}, the image is {size}"
            )
    boxes = torch.cat([faces.boxes for faces in targets])
    bad = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if bad.any():  # one look for all images, since a GPU waits for each
        first = int(bad.nonzero()[0])
        position = int(image_of_each([faces.boxes for faces in targets])[first])
        raise ValueError(
            f"target {position} has a box without width or height: {boxes[first].tolist()}"
        )
    return targets


def pad_to(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Stack [C, H_i, W_i] maps into [B, C, H, W], zero-padded on the right and at the bottom."""
    height, width = size
    return torch.stack(
        [functional.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in maps]
    )

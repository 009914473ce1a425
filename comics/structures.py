"""The value types that every part of the project speaks.

Shape letters: N faces of one image; H, W height and width of that image in pixels.
Boxes are ``(x0, y0, x1, y1)`` in pixels, right and bottom edges exclusive, so width = x1 - x0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

REAL, FAKE = 0, 1
CLASS_NAMES = ("Real", "Fake")
VERDICTS = ("real", "fake", "unclear")
# Why a verdict is "unclear": bit n of ``Faces.doubts`` stands for the n-th of these
DOUBTS = ("near_threshold", "small", "compressed", "unfamiliar")
HTML_COLUMNS = ("face", "verdict", "P(fake)", "score", "left, top", "width × height")
MAX_HTML_ROWS = 100  # in a notebook


class NotFiniteError(ValueError):
    """What a model says of a picture is no finite number, which must not pass for "no face"."""


@dataclass(frozen=True, repr=False)
class Faces:
    """The faces of one image: ground truth (no scores) or predictions (with scores).

    Attributes:
        boxes: [N, 4] float, (x0, y0, x1, y1) in pixels. May reach outside the image.
        image_size: (H, W) of the image that the boxes and masks refer to.
        labels: [N] int64, 0 real, 1 fake.
        scores: [N] float in [0, 1], confidence in ``labels``; None for ground truth.
        masks: [N, H, W] bool; None where there are none.
        fake_probability: [N] float in [0, 1]; None before a verdict has been formed.
        doubts: [N] int64, a bit for each of ``DOUBTS``: why a verdict should not be relied on; 0
            where nothing speaks against it. None where that was not asked.

    Raises:
        ValueError: if a field has the wrong shape or type, naming the field and the fault.
    """

    boxes: Tensor
    image_size: tuple[int, int]
    labels: Tensor
    scores: Tensor | None = None
    masks: Tensor | None = None
    fake_probability: Tensor | None = None
    doubts: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be [N, 4], got {tuple(self.boxes.shape)}")
        if not self.boxes.is_floating_point():
            raise ValueError(f"boxes must be floating point, got {self.boxes.dtype}")
        if self.labels.shape != (count,) or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{count}], got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}"
            )
        for name in ("scores", "fake_probability"):
            value = getattr(self, name)
            if value is not None and value.shape != (count,):
                raise ValueError(f"{name} must be [{count}], got {tuple(value.shape)}")
        if self.doubts is not None and (
            self.doubts.shape != (count,) or self.doubts.dtype != torch.int64
        ):
            raise ValueError(
                f"doubts must be int64 [{count}], got {self.doubts.dtype} "
                f"{tuple(self.doubts.shape)}"
            )
        if self.masks is not None:
            expected = (count, *self.image_size)
            if tuple(self.masks.shape) != expected or self.masks.dtype != torch.bool:
                raise ValueError(
                    f"masks must be bool {expected}, got {self.masks.dtype} "
                    f"{tuple(self.masks.shape)}"
                )

    @classmethod
    def empty(cls, image_size: tuple[int, int], with_masks: bool = True) -> Faces:
        """No face in an image of that size."""
        masks = torch.zeros((0, *image_size), dtype=torch.bool) if with_masks else None
        return cls(
            boxes=torch.zeros((0, 4)),
            image_size=image_size,
            labels=torch.zeros(0, dtype=torch.int64),
            scores=torch.zeros(0),
            masks=masks,
        )

    @property
    def verdicts(self) -> list[str]:
        """Of each face one of ``VERDICTS``: its label, or "unclear" where there are doubts."""
        unclear = [False] * len(self) if self.doubts is None else (self.doubts > 0).tolist()
        return [
            VERDICTS[2] if doubtful else VERDICTS[label]
            for label, doubtful in zip(self.labels.tolist(), unclear, strict=True)
        ]

    @property
    def doubt_names(self) -> list[tuple[str, ...]]:
        """Of each face those of ``DOUBTS`` that apply to it."""
        if self.doubts is None:
            return [()] * len(self)
        return [names_of_doubts(bits) for bits in self.doubts.tolist()]

    @property
    def known_masks(self) -> Tensor:
        """``masks`` of faces that have them; raises ``ValueError`` for others."""
        if self.masks is None:
            raise ValueError("these faces have no masks")
        return self.masks

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        """One line, such as ``<Faces 1280 x 960: 4 faces, 3 real, 1 fake>``."""
        return f"<{type(self).__name__} {self._summary()}>"

    def _summary(self) -> str:
        height, width = self.image_size
        counts = Counter(self.verdicts)
        told = [f"{len(self)} face{'' if len(self) == 1 else 's'}"]
        told += [f"{counts[name]} {name}" for name in VERDICTS if counts[name]]
        return f"{width} x {height}: {', '.join(told)}"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Select faces by a slice, a list of positions, or an index or bool tensor."""
        if isinstance(index, int):
            raise TypeError("Faces are selected by slice, list or tensor: use faces[[i]]")
        if isinstance(index, Sequence):
            index = torch.as_tensor(index, dtype=torch.int64)
        return self._map(lambda tensor: tensor[index])

    def _repr_html_(self) -> str:
        """A table for notebooks: a row per face, numbers and class names only."""
        scores, probabilities, verdicts = self.scores, self.fake_probability, self.verdicts
        rows = []
        for n, (x0, y0, x1, y1) in enumerate(self.boxes[:MAX_HTML_ROWS].tolist()):
            cells = [
                str(n),
                verdicts[n].capitalize(),
                "–" if probabilities is None else f"{float(probabilities[n]):.3f}",
                "–" if scores is None else f"{float(scores[n]):.3f}",
                f"{x0:.0f}, {y0:.0f}",
                f"{x1 - x0:.0f} × {y1 - y0:.0f}",
            ]
            rows.append("".join(f"<td>{cell}</td>" for cell in cells))
        heads = "".join(f"<th>{name}</th>" for name in HTML_COLUMNS)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        height, width = self.image_size
        count = f"{len(self)} face{'' if len(self) == 1 else 's'} in {width} × {height} pixels"
        left = len(self) - len(rows)
        more = f"<p>and {left} more</p>" if left else ""
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{more}"
        return f"<p>{count}</p>{table if rows else ''}"

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to ``device``."""
        # A copy to the host that does not wait could be read before it has arrived
        overlapped = torch.device(device).type != "cpu"
        return self._map(lambda tensor: tensor.to(device, non_blocking=overlapped))

    def pin_memory(self) -> Self:
        """Every tensor in page-locked memory, from which a GPU copies without waiting."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        tensors: dict[str, Any] = {
            field.name: function(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def names_of_doubts(bits: int) -> tuple[str, ...]:
    """The names that an entry of ``Faces.doubts`` stands for."""
    return tuple(name for place, name in enumerate(DOUBTS) if bits >> place & 1)


@dataclass(frozen=True)
class DetectionBatch:
    """What the loader hands to a detector for one step.

    Attributes:
        images: list of [3, H_i, W_i] uint8 RGB; view q when there are two views
            (docs/methods.md#comics-views).
        targets: ground truth of each image, in the coordinates of ``images``.
        key_images: view k, same sizes as ``images``; None when no second view is asked for.
        image_ids: id of each image in its annotation file.
        file_names: path of each image, for messages.
        original_sizes: (H, W) of each image as stored, EXIF orientation applied.
    """

    images: list[Tensor]
    targets: list[Faces]
    key_images: list[Tensor] | None
    image_ids: list[int]
    file_names: list[str]
    original_sizes: list[tuple[int, int]]

    def to(self, device: torch.device | str) -> DetectionBatch:
        """Move images and targets to ``device``."""
        move = [image.to(device, non_blocking=True) for image in self.images]
        keys = self.key_images
        return replace(
            self,
            images=move,
            targets=[faces.to(device) for faces in self.targets],
            key_images=None if keys is None else [k.to(device, non_blocking=True) for k in keys],
        )

    def pin_memory(self) -> DetectionBatch:
        """Images and targets in page-locked memory; a loader of PyTorch's calls this."""
        keys = self.key_images
        return replace(
            self,
            images=[image.pin_memory() for image in self.images],
            targets=[faces.pin_memory() for faces in self.targets],
            key_images=None if keys is None else [key.pin_memory() for key in keys],
        )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class FaceBatch:
    """Face crops for one step of a face method. S is the side of a crop, B their number.

    Unknown integers are -1; a view or mask that a sample lacks is zero and marked invalid.

    Attributes:
        images: [B, 3, S, S] uint8 RGB, the query view.
        labels: [B] int64, 0 real, 1 fake.
        views: name -> [B, 3, S, S] uint8, the further views that the method declares.
        valid: name -> [B] bool, which samples have that view ("mask" for ``masks``).
        masks: [B, S, S] bool, forged region in the geometry of ``images``; None if not asked for.
        methods: [B] int64, forgery domain: 0 real, 1..n forgery methods.
        clusters: [B] int64, content cluster (GuideSpace).
        videos, sources, targets: [B] int64 ids of video, source identity, target identity.
        file_names: path of each sample, for messages.
    """

    images: Tensor
    labels: Tensor
    views: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    masks: Tensor | None
    methods: Tensor
    clusters: Tensor
    videos: Tensor
    sources: Tensor
    targets: Tensor
    file_names: list[str]

    def to(self, device: torch.device | str) -> FaceBatch:
        """Move every tensor to ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> FaceBatch:
        """Every tensor in page-locked memory; a loader of PyTorch's calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> FaceBatch:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, Mapping):
                return {name: apply(tensor) for name, tensor in value.items()}
            return value

        return FaceBatch(**{field.name: apply(getattr(self, field.name)) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.images)

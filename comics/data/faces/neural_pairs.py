"""Pairs of one face crop: as it is, and as an image network draws it.

Both pictures of a pair go the same way: the same window of the same file, the same size, the same
JPEG quality. Only the network stands between them, and it draws either the whole crop or the face
alone, blended inside a soft mask; so a classifier can learn nothing else from the pair.

Shape letters: S side of a crop, a multiple of 8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from comics.data.faces.crops import crop_with_margin, square_window
from comics.data.faces.manifest import FaceRow, Manifest
from comics.data.forgery import describe_face
from comics.data.forgery.blending import alpha_blend
from comics.data.forgery.history import encode_jpeg
from comics.data.forgery.masks import soft_face_mask
from comics.data.forgery.networks import MULTIPLE, FaceNetwork
from comics.data.images import ImageError, read_image
from comics.data.transforms import resize_image
from comics.files import write_bytes
from comics.ops.masks import bitmap_to_rle
from comics.structures import REAL

REALS, FAKES = "real", "neural"  # folders of the two pictures
NAMED_COLUMNS = ("video", "source", "target", "compression", "split")


@dataclass(frozen=True)
class PairSettings:
    """What decides the pairs, besides faces and network.

    Attributes:
        seed: of sizes, qualities and masks.
        sides: smallest and largest side of a crop, pixels, multiples of 8.
        margin: added on each side of a box, as a share of its longer side.
        min_window: faces whose window has a shorter side, pixels, are left out.
        whole_share: of the pairs, the whole crop is drawn by the network; in the others the face
            alone, inside its ellipse.
        face_share: of a crop without a box, the face's width and height as a share of it.
        jpeg_quality: range that both pictures' quality is drawn from.
        method: name that the forged rows get.

    Raises:
        ValueError: for a value out of range.
    """

    seed: int = 0
    sides: tuple[int, int] = (96, 160)
    margin: float = 0.15
    min_window: int = 64
    whole_share: float = 0.5
    face_share: float = 0.75
    jpeg_quality: tuple[int, int] = (80, 96)
    method: str = "neural_trace"

    def __post_init__(self) -> None:
        low, high = self.sides
        if low % MULTIPLE or high % MULTIPLE or not 0 < low <= high:
            raise ValueError(f"sides must be multiples of {MULTIPLE}, low to high: {self.sides}")
        if not 1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 100:
            raise ValueError(f"jpeg_quality must be a range in 1-100, got {self.jpeg_quality}")
        for name in ("whole_share", "face_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.margin < 0 or self.min_window < 1 or self.seed < 0 or not self.method:
            raise ValueError(f"margin, min_window, seed or method cannot be used: {self}")


@dataclass(frozen=True)
class PairJob:
    """One face to make a pair of: its row, the row's names, and the pair's name."""

    name: str
    row: FaceRow
    columns: dict[str, str]


@dataclass(frozen=True)
class PairMaker:
    """Makes pairs; sent to every worker process.

    Attributes:
        output: folder of the set.
        network: that draws.
        settings: sizes and shares.
    """

    output: Path
    network: FaceNetwork
    settings: PairSettings

    def __call__(self, jobs: Sequence[PairJob]) -> tuple[list[dict], list[str]]:
        """The rows of a manifest for several faces, drawn in batches, and the faults met."""
        cut, faults = [], []
        for job in jobs:
            try:
                cut.append(self._cut(job))
            except ValueError as error:
                faults.append(str(error))
        rows = []
        for group in _by_size(cut):
            drawn = self.network.round_trip(np.stack([piece.image for piece in group]))
            for piece, image in zip(group, drawn, strict=True):
                rows += self._write(piece, image)
        return rows, faults

    def _cut(self, job: PairJob) -> _Piece:
        settings, row = self.settings, job.row
        rng = np.random.default_rng([settings.seed, _number(job.name)])
        image = read_image(row.path)
        height, width = image.shape[:2]
        window = square_window(row.box or (0, 0, width, height), settings.margin if row.box else 0)
        native = window[2] - window[0]
        if native < settings.min_window:
            reason = f"{row.place}: its window is {native} pixels, under {settings.min_window}"
            raise ImageError(row.path, reason)
        low, high = settings.sides
        side = int(rng.integers(low // MULTIPLE, high // MULTIPLE + 1)) * MULTIPLE
        # Enlarging a face would be a trace of its own
        side = max(low, min(side, native // MULTIPLE * MULTIPLE))
        if self.network.fixed_size is not None:
            side = self.network.fixed_size[0]
        try:
            crop = crop_with_margin(image, row.box, settings.margin, 0)
        except ValueError as error:
            raise ImageError(row.path, f"{row.place}: {error}") from error
        return _Piece(job, resize_image(crop, (side, side)), rng)

    def _write(self, piece: _Piece, drawn: np.ndarray) -> list[dict]:
        """Save both pictures; the rows of the real one and the forged one."""
        settings, rng, side = self.settings, piece.rng, len(drawn)
        whole = bool(rng.random() < settings.whole_share)
        soft = np.ones((side, side), np.float32)
        if not whole:
            share = settings.face_share
            if piece.job.row.box is not None:
                share = 1 / (1 + 2 * settings.margin)
            box = side / 2 + side * share / 2 * np.array([-1.0, -1.0, 1.0, 1.0])
            soft = soft_face_mask(describe_face(piece.image, box).mask, rng)
        forged = alpha_blend(drawn.astype(np.float32), piece.image, soft)
        quality = int(rng.integers(settings.jpeg_quality[0], settings.jpeg_quality[1] + 1))
        real_path, fake_path = (f"{folder}/{piece.job.name}.jpg" for folder in (REALS, FAKES))
        for path, image in ((real_path, piece.image), (fake_path, forged)):
            target = self.output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, encode_jpeg(image, quality), durable=False)
        columns = piece.job.columns
        fake = {
            **columns,
            "path": fake_path,
            "label": "fake",
            "method": settings.method,
            "paired_real": real_path,
            "mask": json.dumps(bitmap_to_rle(torch.from_numpy(soft > 0.5))),
        }
        if columns["video"]:
            fake["video"] = f"{columns['video']}+{settings.method}"
        return [{**columns, "path": real_path, "label": "real"}, fake]


@dataclass(frozen=True)
class _Piece:
    """A cut face, and the random stream of its pair."""

    job: PairJob
    image: np.ndarray
    rng: np.random.Generator


def choose_faces(manifest: Manifest, counts: dict[str, int], seed: int) -> list[PairJob]:
    """Real faces of a manifest, drawn at random within each split.

    Args:
        manifest: forged rows of it are not looked at.
        counts: split -> how many; a split that has fewer faces gives all of them.
        seed: of the choice.

    Raises:
        ValueError: if a split has no real face.
    """
    jobs = []
    reals = np.flatnonzero(manifest.labels == REAL)
    splits = np.array([manifest.name(int(index), "split") for index in reals], dtype=object)
    for split, count in counts.items():
        members = reals[splits == split]
        if count and not len(members):
            raise ValueError(f"{', '.join(manifest.files)}: no real face of the split {split!r}")
        rng = np.random.default_rng([seed, _number(split)])
        for index in sorted(int(i) for i in rng.permutation(members)[:count]):
            columns = {name: manifest.name(index, name) for name in NAMED_COLUMNS}
            row = manifest[index]
            name = hashlib.sha256(f"{row.path} {row.box}".encode("utf-8", "surrogateescape"))
            jobs.append(PairJob(f"{split}/{name.hexdigest()[:16]}", row, columns))
    return jobs


def _by_size(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    groups: dict[int, list[_Piece]] = {}
    for piece in pieces:
        groups.setdefault(len(piece.image), []).append(piece)
    return list(groups.values())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

"""Copies of a set's faces that are alike in size, coding and metadata, real and forged.

Each face becomes a square JPEG without metadata. Its side and its JPEG quality are drawn so that
every cell, a label of a set, has the same distribution of both: the k-th smallest of a cell gets
the least that the k-th smallest of any cell has. So nothing is enlarged, and nothing gets a better
quality than it came with; lossless pictures count as of the best. What the content tells stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from comics.data.faces.crops import crop_with_margin, square_window
from comics.data.faces.manifest import NAMED, REAL_METHOD, FaceRow, Manifest
from comics.data.faces.manifest_files import write_manifest
from comics.data.faces.samples import FaceReader
from comics.data.image_headers import open_image
from comics.data.images import ImageError, read_image, read_image_size
from comics.data.leaks.properties import jpeg_quality
from comics.structures import CLASS_NAMES

MANIFEST = "manifest.csv"
BEST_QUALITY, LEAST_QUALITY = 95, 30  # of the copies; a lossless picture is of the best
Corners = tuple[float, float, float, float]
SUBSAMPLING = "4:2:0"


@dataclass(frozen=True)
class Equalised:
    """What was written.

    Attributes:
        manifest: path of the manifest of the copies.
        count: faces copied.
        faults: files that could not be read, with file and line.
    """

    manifest: Path
    count: int
    faults: tuple[str, ...]


def equalise(
    manifest: Manifest, output: Path, *, margin: float = 0.15, seed: int = 0, workers: int = 2
) -> Equalised:
    """Write the copies, their masks and a manifest of them.

    Args:
        output: folder; made, must not have a manifest yet.
        margin: around the boxes of faces that have one, per side; see ``crop_with_margin``. Of a
            whole picture that is not square the middle is taken.
        seed: decides between faces of the same size, and of the same quality.
        workers: threads.

    Raises:
        ValueError: if there is a manifest in ``output``, or no face can be read.
    """
    if (output / MANIFEST).exists():
        raise ValueError(f"{output / MANIFEST} exists; name a folder that is new")
    faults: list[str] = []
    kept, sides, qualities = _originals(manifest, margin, workers, faults)
    if not len(kept):
        raise ValueError(f"{output}: no face can be read: {'; '.join(faults[:5])}")
    cells = np.unique(
        np.stack([manifest.codes["set"][kept], manifest.labels[kept]]), axis=1, return_inverse=True
    )[1]
    rng = np.random.default_rng(seed)
    sides = matched(sides, cells, rng)
    qualities = matched(qualities, cells, rng)
    (output / "faces").mkdir(parents=True, exist_ok=True)
    copier = _Copier(manifest, output, margin)
    jobs = list(zip(kept.tolist(), sides.tolist(), qualities.tolist(), strict=True))
    rows: list[dict] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for result in pool.map(copier, jobs):
            if isinstance(result, dict):
                rows.append(result)
            else:
                faults.append(result)
    path = output / MANIFEST
    write_manifest(path, _paired(manifest, rows))
    return Equalised(path, len(rows), tuple(faults))


def matched(values: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[N] values, none above its own, of the same distribution in every cell.

    Args:
        values: [N] whole numbers.
        cells: [N] number of the cell of each, 0 to C - 1, each in use.
        rng: orders those that are equal.
    """
    places = np.empty(len(values))  # of each value in its cell, 0-1
    for cell in np.unique(cells):
        own = np.flatnonzero(cells == cell)
        order = np.lexsort((rng.random(len(own)), values[own]))
        places[own[order]] = (np.arange(len(own)) + 0.5) / len(own)
    quantiles = [
        np.quantile(values[cells == cell], places, method="inverted_cdf")
        for cell in np.unique(cells)
    ]
    return np.min(quantiles, axis=0).astype(values.dtype)


def _originals(
    manifest: Manifest, margin: float, workers: int, faults: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows whose headers can be read, the side of the crop of each, and its quality."""

    def measure(index: int) -> tuple[int, int] | str:
        """(side of its square, JPEG quality) of a row; a fault in words if it cannot be read."""
        row = manifest[index]
        try:
            height, width = read_image_size(row.path)
            with open(row.path, "rb") as stream, open_image(stream, row.path) as opened:
                tables = getattr(opened.image, "quantization", None)
        except (ImageError, OSError) as error:
            return f"{row.place}: {error}"
        quality = jpeg_quality(tables) if tables else BEST_QUALITY
        left, _, right, _ = square_window(*_square(row, height, width, margin))
        return right - left, int(np.clip(round(quality), LEAST_QUALITY, BEST_QUALITY))

    kept, found = [], []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for index, result in enumerate(pool.map(measure, range(len(manifest)))):
            if isinstance(result, str):
                faults.append(result)
            else:
                kept.append(index)
                found.append(result)
    numbers = np.array(found, dtype=np.int64).reshape(-1, 2)
    return np.array(kept, dtype=np.int64), numbers[:, 0], numbers[:, 1]


def _square(row: FaceRow, height: int, width: int, margin: float) -> tuple[Corners, float]:
    """Box and margin of a face's crop; of a whole picture the middle square."""
    if row.box is not None:
        return row.box, margin
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side), 0.0


class _Copier:
    """Writes the copy of a row; returns the row of the copy, or a fault."""

    def __init__(self, manifest: Manifest, output: Path, margin: float) -> None:
        self._manifest, self._output, self._margin = manifest, output, margin

    def __call__(self, job: tuple[int, int, int]) -> dict | str:
        index, side, quality = job
        row = self._manifest[index]
        name = f"{index:07d}"
        try:
            image = read_image(row.path)
            box, margin = _square(row, image.shape[0], image.shape[1], self._margin)
            crop = crop_with_margin(image, box, margin, side)
            mask = self._mask(row, box, margin, side)
        except ValueError as error:
            return f"{row.place}: {error}"
        picture = f"faces/{name}.jpg"
        Image.fromarray(crop).save(
            self._output / picture, quality=quality, subsampling=SUBSAMPLING, optimize=False
        )
        copy = _columns(self._manifest, index) | {"path": picture, "index": index}
        if mask is not None:
            copy["mask"] = f"masks/{name}.png"
            target = self._output / copy["mask"]
            target.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(target), mask.astype(np.uint8) * 255)
        return copy

    def _mask(self, row: FaceRow, box: Corners, margin: float, side: int) -> np.ndarray | None:
        if not row.mask:
            return None
        part = FaceRow(row.path, box, "", row.mask, row.label, "", row.place)
        return FaceReader(side, margin).mask(part)


def _columns(manifest: Manifest, index: int) -> dict:
    """The columns of a row that a copy keeps."""
    row: dict[str, str | int] = {column: manifest.name(index, column) for column in NAMED}
    if row["method"] == REAL_METHOD:
        row["method"] = ""
    row["label"] = CLASS_NAMES[manifest.labels[index]].lower()
    for column, value in (("frame", manifest.frames), ("cluster", manifest.clusters)):
        row[column] = int(value[index]) if value[index] >= 0 else ""
    return row


def _paired(manifest: Manifest, rows: Sequence[dict]) -> Iterator[dict]:
    """Rows whose ``paired_real`` names the copy of the real picture, where it is one of the set."""

    def key(index: int, path: str) -> tuple:
        root = manifest.roots[manifest.file[index]]
        box = np.nan_to_num(manifest.boxes[index], nan=-1.0)
        return os.path.realpath(os.path.join(root, path)), *box.tolist()

    copies = {key(row["index"], manifest.paths[row["index"]]): row["path"] for row in rows}
    for row in rows:
        index = row.pop("index")
        paired = manifest.paired[index]
        yield row | {"paired_real": copies.get(key(index, paired), "") if paired else ""}

"""Properties of a face's file and crop that say nothing of whether the face is forged.

If they tell the label all the same, a model learns them instead of forgeries: real faces as
camera JPEGs and forged ones as PNGs are told apart without a look.

Shape letters: N faces; K numbers of a property.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from comics.data.faces.crops import cut_window
from comics.data.faces.manifest import UNKNOWN, FaceRow, Manifest
from comics.data.images import DEFAULT_MAX_PIXELS, ImageError, decode_image

NONE = -1.0  # a number that a file does not have
RING = 2  # width of the border that is looked at, pixels
BLACK = 16  # a pixel up to this luminance, 0-255, may be a black border
METADATA = ("exif", "icc_profile", "xmp", "comment", "dpi", "jfif", "adobe")
SAMPLE = 4000  # faces per set that are looked at
# The luminance table of the JPEG standard (ITU-T T.81, table K.1): its sum is quality 50
STANDARD_SUM = 3688
FACE_PROPERTIES = ("face size", "face place")  # of faces that have a box

Values = dict[str, tuple[float | str, ...]]


@dataclass(frozen=True)
class PropertyTable:
    """Properties of N faces.

    Attributes:
        values: name of a property -> [N, K] float; kinds (format, mode) are numbered.
        labels: [N] int, ``REAL`` or ``FAKE``.
        groups: [N] int; faces of one group are alike.
        sets: [N] names; "" where a face's set is unknown.
        unreadable: faults of files that are left out, with file and line.
        total: faces of the manifest, before a sample was taken.
    """

    values: dict[str, np.ndarray]
    labels: np.ndarray
    groups: np.ndarray
    sets: np.ndarray
    unreadable: tuple[str, ...]
    total: int


def measure_properties(
    manifest: Manifest,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    workers: int = 2,
) -> PropertyTable:
    """Read faces and measure their properties.

    Args:
        sample: faces of each set that are read, whole groups at random; 0 = all.
        seed: of the sample.
        workers: threads.
    """
    groups = leak_groups(manifest)
    sets = np.array([*manifest.names["set"], ""], dtype=object)[manifest.codes["set"]]
    rows = _sampled(groups, sets, sample, seed)
    found: list[Values] = []
    kept: list[int] = []
    faults: list[str] = []

    def read(index: int) -> Values | ImageError:
        row = manifest[index]
        try:
            return face_properties(row, max_pixels)
        except ImageError as error:
            return ImageError(row.place, str(error))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for index, values in zip(rows, pool.map(read, rows.tolist()), strict=True):
            if isinstance(values, ImageError):
                faults.append(str(values))
            else:
                kept.append(int(index))
                found.append(values)
    chosen = np.array(kept, dtype=np.int64)
    return PropertyTable(
        values=_columns(found),
        labels=manifest.labels[chosen].astype(np.int64),
        groups=groups[chosen],
        sets=sets[chosen],
        unreadable=tuple(faults),
        total=len(manifest),
    )


def leak_groups(manifest: Manifest) -> np.ndarray:
    """[N] int: faces of one group, clip or picture, and what these link, are alike."""
    count = len(manifest)
    pictures = [f"{manifest.file[row]} {manifest.paths[row]}" for row in range(count)]
    links = [np.unique(np.array(pictures, dtype=object), return_inverse=True)[1]]
    links += [manifest.codes[column] for column in ("group", "video")]
    rows, nodes, total = [], [], count
    for codes in links:
        known = np.flatnonzero(codes != UNKNOWN)
        rows.append(known)
        nodes.append(total + codes[known])
        total += int(codes.max(initial=0)) + 1
    ends = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_matrix((np.ones(len(ends[0]), dtype=bool), ends), shape=(total, total))
    return connected_components(graph, directed=False)[1][:count].astype(np.int64)


def face_properties(row: FaceRow, max_pixels: int = DEFAULT_MAX_PIXELS) -> Values:
    """Each property of a face; a word where it is a kind.

    Raises:
        ImageError: if the picture cannot be read, or the box is outside of it.
    """
    try:
        with open(row.path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(row.path, error.strerror or str(error)) from error
    pixels = decode_image(data, row.path, max_pixels)
    values: Values = {}
    # The file as it is: the project's own reader leaves out what says nothing about pixels
    faults = (Image.UnidentifiedImageError, OSError, ValueError, SyntaxError)
    with contextlib.suppress(*faults), Image.open(io.BytesIO(data)) as image:
        values = _file_properties(image, len(data))
    height, width = pixels.shape[:2]
    if row.box is not None:
        x0, y0, x1, y1 = row.box
        values["face size"] = (x1 - x0, y1 - y0)
        values["face place"] = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
    return values | _pixel_properties(row, pixels)


def jpeg_quality(tables: dict[int, Sequence[int]]) -> float:
    """Quality, 1-100, of the common encoder (IJG) whose luminance table has the same sum.

    Below 25, where entries end at 255, it comes out too high, by 5 at 10.
    """
    scale = 100 * sum(tables[min(tables)]) / STANDARD_SUM
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return float(np.clip(quality, 1, 100))


def _file_properties(image: Image.Image, size: int) -> Values:
    width, height = image.size
    tables = dict(getattr(image, "quantization", None) or {})
    info = image.info
    subsampling = NONE
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        subsampling = float(JpegImagePlugin.get_sampling(image))
    return {
        "picture size": (float(width), float(height)),
        "aspect ratio": (width / height,),
        "file format": (image.format or "",),
        "colour mode": (image.mode,),
        "JPEG tables": (
            float(len(tables)),
            jpeg_quality(tables) if tables else NONE,
            *(float(sum(tables[n])) if n in tables else NONE for n in (0, 1)),
        ),
        "chroma subsampling": (subsampling,),
        "progressive": (float(bool(info.get("progressive") or info.get("interlace"))),),
        "metadata": (
            *(float(name in info) for name in METADATA),
            float(len(getattr(image, "text", None) or ())),
            float(len(info.get("exif", b""))),
        ),
        "bytes per pixel": (size / (width * height),),
    }


def _pixel_properties(row: FaceRow, pixels: np.ndarray) -> Values:
    crop = pixels
    if row.box is not None:
        x0, y0, x1, y1 = (int(round(value)) for value in row.box)
        try:
            crop = cut_window(pixels, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
        except ValueError as error:
            raise ImageError(row.path, str(error)) from error
    grey = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY).astype(np.float32)
    sides = [_side(grey, turns) for turns in range(4)]
    return {
        "mean luminance": (float(grey.mean()),),
        # The darkest side: a black bar is seldom on all four
        "black border": (min(float(side[:RING].mean()) for side in sides),
                         float(np.mean([(side[:RING] <= BLACK).mean() for side in sides]))),
        "border step": tuple(
            float(np.abs(side[0] - side[min(RING, len(side) - 1)]).mean()) for side in sides
        ),
    }  # fmt: skip


def _side(grey: np.ndarray, turns: int) -> np.ndarray:
    """The picture turned so that one of its four sides is on top."""
    return np.rot90(grey, turns)


def _sampled(groups: np.ndarray, sets: np.ndarray, sample: int, seed: int) -> np.ndarray:
    rows = []
    for name in sorted(set(sets.tolist())):
        own = np.flatnonzero(sets == name)
        if not sample or len(own) <= sample:
            rows.append(own)
            continue
        rank = np.random.default_rng(seed).permutation(groups.max() + 1)[groups[own]]
        order = np.argsort(rank, kind="stable")
        # Whole groups: up to the end of the one that fills the sample
        last = rank[order[sample - 1]]
        rows.append(own[rank <= last])
    return np.sort(np.concatenate(rows))


def _columns(found: Sequence[Values]) -> dict[str, np.ndarray]:
    """[N, K] of each property; kinds numbered in their order of names."""
    names = dict.fromkeys(name for values in found for name in values)
    table = {}
    for name in names:
        width = next(len(values[name]) for values in found if name in values)
        rows = [values.get(name, (NONE,) * width) for values in found]
        if any(isinstance(value, str) for row in rows for value in row):
            kinds = sorted({str(value) for row in rows for value in row})
            rows = [tuple(float(kinds.index(str(value))) for value in row) for row in rows]
        table[name] = np.array(rows, dtype=np.float64)
    return table

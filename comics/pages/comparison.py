"""``comics compare``: a picture beside the original that it may have been made from.

The original is laid over the picture, its brightness and colours are brought to the picture's, and
what differs beyond the traces of compression is shown. All text on the page is escaped, nothing on
it needs a script.

Shape letters: H, W height and width of the picture; h, w of it as it is compared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from comics.data.file_names import display_name
from comics.data.images import read_image
from comics.data.transforms import resize_image, shortest_side_size
from comics.files import file_sha256, write_bytes
from comics.ops.alignment import align, lay_over
from comics.pages.html_pages import picture_uri, render

TEMPLATE = "comparison.html"
TITLE = "A picture and its original"
SIDE = 1400  # pixels of the long side at which the two are compared and shown
QUALITY = 85  # JPEG
BLUR = 7  # pixels, odd: differences of single pixels are the codec's
MIN_DIFFERENCE = 24.0  # of 255; below it nothing is called a difference
NOISE_FACTOR = 5.0  # of the median difference, which is what compression makes
GROW = 15  # pixels: what lies nearer to each other is one region
MIN_REGION = 0.0004  # of the picture's area
MAX_REGIONS = 6  # told one by one
# Of the line that takes the original's colours to the picture's
MIN_SAMPLE, MIN_SPREAD = 100, 20  # pixels that it is fitted to, and their range
DARK, BRIGHT = 6, 249  # of 255: beyond them a pixel may have been cut off
FITS, KEPT = 4, 0.8  # times that it is fitted, and the share of the pixels that the next one keeps
GAINS = (0.4, 2.5)


@dataclass(frozen=True)
class Region:
    """A part of the picture that differs.

    Attributes:
        box: (x, y, width, height), as shares of the picture's width and height.
        share: of the picture's area that differs in it.
        strength: mean difference in it, of 255.
    """

    box: tuple[float, float, float, float]
    share: float
    strength: float


@dataclass(frozen=True)
class Comparison:
    """What two pictures have in common.

    Attributes:
        picture: [h, w, 3] uint8 RGB, made small.
        original: [h, w, 3], laid over the picture; at its own sides where it does not match.
        difference: [h, w] float32, 0-255; None where the original does not match.
        covered: [h, w] bool, where there is anything to compare; likewise.
        regions: where they differ, the largest first.
        agreeing: points of both that agree on how one lies on the other.
    """

    picture: np.ndarray
    original: np.ndarray
    difference: np.ndarray | None
    covered: np.ndarray | None
    regions: tuple[Region, ...]
    agreeing: int

    @property
    def matches(self) -> bool:
        """Whether they show a common scene."""
        return self.difference is not None

    def sentence(self) -> str:
        """What was found, for people."""
        if self.covered is None:
            return (
                "These two pictures do not match: no scene was found that both of them show. The "
                "second is another picture, or it was cropped, turned or changed too much for a "
                "comparison. Nothing follows from this about the first."
            )
        covered = float(self.covered.mean())
        rest = (
            "" if covered > 0.995 else
            f" The original covers {100 * covered:.0f} % of the picture; the rest was not compared."
        )  # fmt: skip
        if not self.regions:
            return f"No difference was found beyond what compression leaves.{rest}"
        share = sum(region.share for region in self.regions)
        parts = "one place" if len(self.regions) == 1 else f"{len(self.regions)} places"
        return f"They differ in {parts}, on {100 * share:.1f} % of the picture.{rest}"


def compare_pictures(picture: np.ndarray, original: np.ndarray) -> Comparison:
    """Lay the original over the picture and find where they differ.

    Args:
        picture: [H, W, 3] uint8 RGB.
        original: [., ., 3] uint8 RGB, of any size.
    """
    small = _shrunk(picture)
    alignment = align(original, small)
    if alignment is None:
        return Comparison(small, _shrunk(original), None, None, (), 0)
    laid, covered = lay_over(original, alignment, (small.shape[0], small.shape[1]))
    laid = _with_colours_of(laid, small, covered)
    difference = np.abs(_smooth(laid) - _smooth(small)).mean(-1) * covered
    # A pixel at the edge of what is covered is half made of nothing
    covered = cv2.erode(covered.astype(np.uint8), np.ones((BLUR, BLUR), np.uint8)) > 0
    difference = np.where(covered, difference, 0).astype(np.float32)
    found = _regions(difference, covered)
    return Comparison(small, laid, difference, covered, found, alignment.agreeing)


def write_comparison(
    page: Path, picture: str | os.PathLike, original: str | os.PathLike, title: str = TITLE
) -> Comparison:
    """Write the page of a comparison; returns what was found.

    Args:
        page: HTML file.
        picture, original: files.
        title: heading of the page.

    Raises:
        ImageError: naming the file that cannot be read.
        OSError: if the page cannot be written.
    """
    html, found = comparison_page(picture, original, title)
    write_bytes(page, html.encode("utf-8", "backslashreplace"))
    return found


def comparison_page(
    picture: str | os.PathLike,
    original: str | os.PathLike,
    title: str = TITLE,
    names: tuple[str, str] | None = None,
) -> tuple[str, Comparison]:
    """The page of a comparison as text, and what was found.

    Args:
        picture, original: files.
        title: heading of the page.
        names: what the page calls the two files; None: their paths.

    Raises:
        ImageError: naming the file that cannot be read.
    """
    first, second = read_image(picture), read_image(original)
    called = names or (display_name(Path(picture)), display_name(Path(original)))
    found = compare_pictures(first, second)
    shown = [_view("The picture", found.picture), _view("The original", found.original)]
    if found.matches:
        shown[1]["caption"] = "The original, laid over the picture, its colours brought to it"
        shown.append(_view("Where they differ: the more yellow, the more", _heat(found)))
    html = render(
        TEMPLATE,
        title=title,
        sentence=found.sentence(),
        matches=found.matches,
        views=shown,
        regions=[_told(region, first.shape[:2]) for region in found.regions[:MAX_REGIONS]],
        more=max(0, len(found.regions) - MAX_REGIONS),
        files=[
            ("Picture", _facts(called[0], picture, first.shape[:2])),
            ("Original", _facts(called[1], original, second.shape[:2])),
        ],
    )
    return html, found


def _shrunk(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= SIDE:
        return image
    return resize_image(image, shortest_side_size((height, width), SIDE, SIDE))


def _with_colours_of(laid: np.ndarray, fixed: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``laid`` with each channel scaled and shifted to that of ``fixed``, most of it alike.

    A straight line through the pixels that are neither black nor white in either of them; those
    that fit it worst are left out, so that a part that was exchanged does not count.
    """
    result = laid.astype(np.float32)
    for channel in range(3):
        one, other = result[..., channel][where], fixed[..., channel][where].astype(np.float32)
        usable = (np.minimum(one, other) > DARK) & (np.maximum(one, other) < BRIGHT)
        one, other = one[usable], other[usable]
        for _ in range(FITS):
            if len(one) < MIN_SAMPLE or float(np.ptp(one)) < MIN_SPREAD:
                break
            gain, shift = np.polyfit(one, other, 1)
            gain = float(np.clip(gain, *GAINS))
            shift = float(np.median(other - gain * one))
            error = np.abs(other - gain * one - shift)
            near = error <= np.quantile(error, KEPT)
            fitted = gain, shift
            one, other = one[near], other[near]
        else:
            result[..., channel] = result[..., channel] * fitted[0] + fitted[1]
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _smooth(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image.astype(np.float32), (BLUR, BLUR), 0)


def _regions(difference: np.ndarray, covered: np.ndarray) -> tuple[Region, ...]:
    """Connected parts of [h, w] that differ by more than compression does; the largest first."""
    if not covered.any():
        return ()
    limit = max(MIN_DIFFERENCE, NOISE_FACTOR * float(np.median(difference[covered])))
    differs = (difference > limit).astype(np.uint8)
    joined = cv2.dilate(differs, np.ones((GROW, GROW), np.uint8))
    _, labels = cv2.connectedComponents(joined)
    labels = labels * differs
    height, width = difference.shape
    found = []
    shares = np.bincount(labels.ravel()) / differs.size  # of noise there are thousands
    for label in np.flatnonzero(shares[1:] >= MIN_REGION) + 1:
        rows, columns = np.nonzero(labels == label)
        left, top = float(columns.min()) / width, float(rows.min()) / height
        right, bottom = float(columns.max() + 1) / width, float(rows.max() + 1) / height
        box = (left, top, right - left, bottom - top)
        strength = float(difference[rows, columns].mean())
        found.append(Region(box, float(shares[label]), strength))
    return tuple(sorted(found, key=lambda region: -region.share))


def _heat(found: Comparison) -> np.ndarray:
    """The picture in grey, with yellow where the two differ."""
    assert found.difference is not None and found.covered is not None
    grey = cv2.cvtColor(found.picture, cv2.COLOR_RGB2GRAY)[..., None] * 0.6
    share = np.clip(found.difference / (4 * MIN_DIFFERENCE), 0, 1)[..., None]
    shown = grey * (1 - share) + np.array([255, 212, 0]) * share
    shown[~found.covered] *= 0.3
    return np.rint(shown).astype(np.uint8)


def _view(caption: str, image: np.ndarray) -> dict[str, Any]:
    return {
        "caption": caption,
        "uri": picture_uri(Image.fromarray(np.ascontiguousarray(image)), QUALITY),
        "width": image.shape[1],
        "height": image.shape[0],
    }


def _told(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    x, y, across, down = region.box
    return {
        "box": region.box,
        "text": f"{round(across * width)} × {round(down * height)} pixels at x {round(x * width)}, "
        f"y {round(y * height)}; mean difference {region.strength:.0f} of 255",
    }


def _facts(name: str, path: str | os.PathLike, size: tuple[int, int]) -> list[tuple[str, str]]:
    return [
        ("File", name),
        ("SHA-256", file_sha256(path)),
        ("Size", f"{os.path.getsize(path):,} bytes, {size[1]} × {size[0]} pixels"),
    ]

"""Verdicts drawn on pictures: mask, box and label of every face.

Real faces are blue with a solid box; forged ones are orange with a dashed box and a hatched mask;
unclear ones are grey with a dotted box; the label says it in words. So nothing is told by colour
alone, and the colours stay apart in the common kinds of colour blindness. Lines have a white rim,
to be seen on dark and on bright pictures; white text on any of the colours has a contrast above
4.5:1. Sizes follow the picture's.

Shape letters: N faces; H, W height and width of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from comics.structures import FAKE, REAL, VERDICTS, Faces

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

UNCLEAR = 2  # beside the labels REAL and FAKE, of what is drawn
COLOURS = {REAL: (0, 90, 160), FAKE: (194, 74, 0), UNCLEAR: (92, 92, 92)}  # RGB
RIM = (255, 255, 255)
FILL_OPACITY = 0.12
HATCH_OPACITY = 0.6
LINE_SHARE, MIN_LINE = 0.003, 1  # line width, of the root of the picture's area; pixels
TEXT_SHARE, MIN_TEXT, MAX_TEXT = 0.026, 11, 96  # text height, likewise
# In line widths, by what is drawn; a gap has the rim's width on top, which eats into it
DASHES = {FAKE: (8, 4), UNCLEAR: (2, 3)}
HATCH_PERIOD = 6  # in line widths
MORE_LIKELY = 0.5  # P(fake) from which a face that is called real is more likely fake
LABEL_WIDTH_SHARE = 0.9  # of the picture's width; a longer label gets a smaller font


def draw_faces(
    image: np.ndarray, faces: Faces, scale: float = 1.0, names: Sequence[str] | None = None
) -> np.ndarray:
    """A copy of the image with its faces drawn on it.

    Args:
        image: [H, W, 3] uint8 RGB.
        faces: verdicts, detections or ground truth, in the coordinates of ``image``.
        scale: makes lines and text larger, for a picture that is shown small.
        names: of the N faces, such as "#3"; written before the verdict.

    Raises:
        ValueError: if ``image`` is not [H, W, 3] uint8, or of another size than ``faces`` is for.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
    if image.shape[:2] != tuple(faces.image_size):
        raise ValueError(f"faces are for an image of {faces.image_size}, got {image.shape[:2]}")
    canvas = np.ascontiguousarray(image).copy()
    if not len(faces):
        return canvas
    style = Style.for_image(*faces.image_size, scale)
    labels = [VERDICTS.index(verdict) for verdict in faces.verdicts]
    boxes = [tuple(map(round, box)) for box in faces.boxes.tolist()]
    if faces.masks is not None:
        for mask, label in zip(faces.masks.cpu().numpy(), labels, strict=True):
            _draw_mask(canvas, mask, label, style)
    for box, label in zip(boxes, labels, strict=True):
        _draw_box(canvas, box, label, style)
    texts = label_texts(faces)
    if names is not None:
        texts = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
    return _draw_labels(canvas, boxes, texts, labels, style)


def label_texts(faces: Faces) -> list[str]:
    """What is written at each face: its verdict and P(fake), e.g. "FAKE 97%".

    A real face says how probable that is, unless a forgery is more probable but below the threshold
    from which a face is called fake: "REAL? FAKE 66%". An unclear one gives P(fake): "UNCLEAR 55%".
    """
    if faces.fake_probability is None:
        return [verdict.upper() for verdict in faces.verdicts]
    return [
        verdict_text(verdict, p)
        for verdict, p in zip(faces.verdicts, faces.fake_probability.tolist(), strict=True)
    ]


def verdict_text(verdict: str, fake_probability: float) -> str:
    """The label of a face, as it is written on pictures and pages.

    Args:
        verdict: of ``comics.structures.VERDICTS``.
        fake_probability: in [0, 1].
    """
    if verdict != "real":
        return f"{verdict.upper()} {_whole_percent(fake_probability)}"
    if fake_probability > MORE_LIKELY:
        return f"REAL? FAKE {_whole_percent(fake_probability)}"
    return f"REAL {_whole_percent(1 - fake_probability)}"


@dataclass(frozen=True)
class Style:
    """Sizes in pixels: width of lines, of their rim, and height of text."""

    line: int
    rim: int
    text: int

    @classmethod
    def for_image(cls, height: int, width: int, scale: float = 1.0) -> Style:
        """Sizes that suit a picture of that size, times ``scale``."""
        side = scale * (height * width) ** 0.5
        line = max(MIN_LINE, round(LINE_SHARE * side))
        text = min(max(MIN_TEXT, round(TEXT_SHARE * side)), MAX_TEXT)
        return cls(line=line, rim=line + 2 * max(1, line // 2), text=text)


def _whole_percent(probability: float) -> str:
    """Whole percents; 100 % and 0 % are kept for what is exactly so."""
    rounded = round(100 * probability)
    if rounded == 100 and probability < 1:
        return ">99%"
    if rounded == 0 and probability > 0:
        return "<1%"
    return f"{rounded}%"


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, label: int, style: Style) -> None:
    """Light fill, hatched if forged, and the contour; changes ``canvas``."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if not len(rows):
        return
    top, left = rows[0], columns[0]
    window = slice(top, rows[-1] + 1), slice(left, columns[-1] + 1)
    part, inside = canvas[window], mask[window]
    _blend(part, inside, COLOURS[label], FILL_OPACITY)
    if label == FAKE:
        y, x = np.indices(inside.shape)
        stripes = (x + y) % (HATCH_PERIOD * style.line) < style.line
        _blend(part, inside & stripes, COLOURS[label], HATCH_OPACITY)
    contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    moved = [contour + np.array([left, top], dtype=contour.dtype) for contour in contours]
    cv2.drawContours(canvas, moved, -1, RIM, style.rim, cv2.LINE_AA)
    cv2.drawContours(canvas, moved, -1, COLOURS[label], style.line, cv2.LINE_AA)


def _blend(part: np.ndarray, where: np.ndarray, colour: tuple, opacity: float) -> None:
    part[where] = np.rint(part[where] * (1 - opacity) + np.array(colour) * opacity)


def _draw_box(canvas: np.ndarray, box: tuple, label: int, style: Style) -> None:
    right, bottom = canvas.shape[1] - 1, canvas.shape[0] - 1
    x0, x1 = (min(max(x, 0), right) for x in (box[0], box[2] - 1))
    y0, y1 = (min(max(y, 0), bottom) for y in (box[1], box[3] - 1))
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    if label in DASHES:
        edges = [d for start, end in edges for d in _dashes(start, end, style, *DASHES[label])]
    for colour, thickness in ((RIM, style.rim), (COLOURS[label], style.line)):
        for start, end in edges:
            cv2.line(canvas, start, end, colour, thickness)


def _dashes(
    start: tuple[int, int], end: tuple[int, int], style: Style, drawn: int, gap: int
) -> list[tuple]:
    """Pieces of a straight line, each at most ``drawn`` line widths long, with gaps between."""
    start_point, end_point = np.array(start), np.array(end)
    length = float(np.abs(end_point - start_point).max())
    if not length:
        return [(start, end)]
    dash = drawn * style.line
    period = dash + gap * style.line + style.rim
    direction = (end_point - start_point) / length
    return [
        (
            tuple(np.rint(start_point + direction * offset).astype(int).tolist()),
            tuple(
                np.rint(start_point + direction * min(offset + dash, length)).astype(int).tolist()
            ),
        )
        for offset in np.arange(0, length, period)
    ]


def _draw_labels(
    canvas: np.ndarray, boxes: list[tuple], texts: list[str], labels: list[int], style: Style
) -> np.ndarray:
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    placed: list[tuple[int, int, int, int]] = []
    for box, text, label in zip(boxes, texts, labels, strict=True):
        font, size = _fitting_font(text, style, picture.width)
        padding = max(2, round(size[1] / 4))
        plate = (size[0] + 2 * padding, size[1] + 2 * padding)
        area = place_label(box, plate, picture.size, placed)
        placed.append(area)
        pen.rectangle(
            (area[0], area[1], area[2] - 1, area[3] - 1),
            fill=COLOURS[label],
            outline=RIM,
            width=max(1, style.line // 2),
        )
        middle = ((area[0] + area[2]) / 2, (area[1] + area[3]) / 2)
        pen.text(middle, text, fill=RIM, font=font, anchor="mm")
    return np.asarray(picture).copy()


def _fitting_font(text: str, style: Style, picture_width: int) -> tuple[Font, tuple[int, int]]:
    """The font, and the (width, height) of the text in it; smaller where the picture is narrow."""
    size = style.text
    while True:
        font = ImageFont.load_default(size)
        left, _, right, _ = font.getbbox(text)
        if right - left <= LABEL_WIDTH_SHARE * picture_width or size <= MIN_TEXT:
            return font, (round(right - left), size)
        size -= 1


def place_label(
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    image_size: tuple[int, int],
    placed: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Where a label of (width, height) goes: above the box, below, beside, or inside.

    The first of these places, moved into the picture, that covers neither the face nor a label
    placed before; if all do, one that covers no label; if all do, the first.

    Args:
        box: (x0, y0, x1, y1) of the face.
        image_size: (width, height).
        placed: areas of the labels placed before.

    Returns:
        (x0, y0, x1, y1) of the label, pixels.
    """
    width, height = size
    x0, y0, x1, y1 = box
    corners = [(x0, y0 - height), (x1 - width, y0 - height), (x0, y1), (x1 - width, y1)]
    corners += [(x1, y0), (x0 - width, y0), (x1, y1 - height), (x0 - width, y1 - height)]
    corners += [(x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)]
    candidates = []
    for left, top in corners:
        left = max(0, min(left, image_size[0] - width))
        top = max(0, min(top, image_size[1] - height))
        candidates.append((left, top, left + width, top + height))
    # A place that had to be moved into the picture may lie over the face
    candidates.sort(key=lambda area: _overlap(area, box))
    free = [area for area in candidates if not any(_overlap(area, other) for other in placed)]
    return (free or candidates)[0]


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

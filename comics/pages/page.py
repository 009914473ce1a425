"""One HTML page with pictures, verdicts, metrics and training curves; needs no network.

Everything is inside the file: style, thumbnails (as data URIs) and curves (SVG). Text comes from
file names and results, so the template escapes all of it, and a content-security policy forbids
scripts and requests.

Shape letters: H, W height and width of a picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from comics.data.transforms import resize_image, shortest_side_size
from comics.files import write_bytes
from comics.inference.draw import draw_faces
from comics.inference.placement import to_original
from comics.pages.curves import Record, curves_svg
from comics.pages.html_pages import VERDICTS, flat_pairs, picture_uri, render
from comics.runs.outputs import verdict_of
from comics.structures import Faces

THUMBNAIL_SIDE = 720  # pixels, the long side
THUMBNAIL_QUALITY = 82  # JPEG
THUMBNAIL_SCALE = 1.6  # of lines and text: thumbnails are shown at about half their pixels
DECIMALS = 3  # of numbers in tables, where not told otherwise
TEMPLATE = "gallery.html"

Table = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class GalleryPicture:
    """A picture of the page.

    Attributes:
        name: shown below it, escaped.
        image: [H, W, 3] uint8 RGB, nothing drawn on it.
        faces: verdicts in the coordinates of ``image``; they are drawn on the thumbnail.
        link: a file beside the page that the thumbnail opens, as a relative path; None: no link.
        note: one more line, such as what is true of the picture; None: none.
    """

    name: str
    image: np.ndarray
    faces: Faces
    link: str | None = None
    note: str | None = None


def write_page(
    path: str | os.PathLike,
    title: str,
    pictures: Sequence[GalleryPicture] = (),
    tables: Mapping[str, Table] | None = None,
    curves: Sequence[Record] | None = None,
    introduction: str | None = None,
    provenance: Mapping[str, object] | None = None,
    links: Mapping[str, str] | None = None,
    decimals: int = DECIMALS,
) -> None:
    """Write the page, atomically.

    Args:
        path: of the HTML file.
        title: heading of the page.
        pictures: in the order in which they are shown.
        tables: caption -> rows; each row maps column names to values, the first row names the
            columns. Floating-point numbers are shown with ``decimals``, None and NaN as a dash.
        curves: records of a ``metrics.jsonl``: see ``comics.pages.curves.read_curves``.
        introduction: a paragraph below the title.
        provenance: ``Predictor.provenance``, shown at the end.
        links: text -> a file beside the page, as a relative path; shown below the introduction.
        decimals: of numbers in tables.
    """
    svg = curves_svg(curves) if curves else None
    html = render(
        TEMPLATE,
        title=title,
        introduction=introduction,
        cards=[_card(picture) for picture in pictures],
        links=[(text, _address(path)) for text, path in (links or {}).items()],
        tables=[_table(caption, rows, decimals) for caption, rows in (tables or {}).items()],
        # Made by matplotlib, which escapes the names of the series
        curves=None if svg is None else Markup(svg),
        provenance=flat_pairs(provenance or {}),
    )
    # Surrogates stand for bytes of file names that are no UTF-8
    write_bytes(path, html.encode("utf-8", "backslashreplace"))


def _card(picture: GalleryPicture) -> dict[str, object]:
    height, width = picture.image.shape[:2]
    size = shortest_side_size((height, width), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if max(size) > max(height, width):  # a small picture is not blown up
        size = (height, width)
    # Drawn after shrinking, so that lines and labels stay legible
    faces = to_original(picture.faces, size)
    thumbnail = draw_faces(resize_image(picture.image, size), faces, THUMBNAIL_SCALE)
    verdicts = picture.faces.verdicts
    verdict = verdict_of(verdicts)
    return {
        "name": picture.name,
        "source": picture_uri(Image.fromarray(thumbnail), THUMBNAIL_QUALITY),
        "height": size[0],
        "width": size[1],
        "link": None if picture.link is None else _address(picture.link),
        "note": picture.note,
        "verdict": verdict,
        "verdict_text": VERDICTS[verdict],
        "faces": len(picture.faces),
        "forged": verdicts.count("fake"),
    }


def _address(path: str) -> str:
    return quote(path, errors="surrogateescape")


def _table(caption: str, rows: Table, decimals: int) -> dict[str, object]:
    names = list(rows[0]) if rows else []
    columns = [
        {"name": name, "number": any(_is_number(row.get(name)) for row in rows)} for name in names
    ]
    cells = [[_cell(row.get(name), decimals) for name in names] for row in rows]
    return {"caption": caption, "columns": columns, "rows": cells}


def _cell(value: object, decimals: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, (float, np.floating)):
        return f"{value:.{decimals}f}"
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)

"""Faces that bring a small picture along, for notebooks.

Shape letters: H, W height and width of the picture as given; h, w of the small one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from comics.data.transforms import resize_image, shortest_side_size
from comics.inference.draw import draw_faces
from comics.inference.placement import to_original
from comics.pages.html_pages import picture_uri
from comics.structures import Faces

SIDE = 640  # pixels of the long side
QUALITY = 80  # JPEG
DRAWING_SCALE = 1.4  # of lines and text, since the picture is small


@dataclass(frozen=True)
class PicturedFaces(Faces):
    """``Faces`` that also know what their picture looks like.

    Attributes:
        picture: [h, w, 3] uint8 RGB, the whole picture made small; None without one.
    """

    picture: np.ndarray | None = None

    def _repr_html_(self) -> str:
        """The picture with the faces drawn on it, and the table of ``Faces``."""
        table = super()._repr_html_()
        if self.picture is None:
            return table
        size = self.picture.shape[:2]
        # Drawn after shrinking, so that lines and labels stay legible
        drawn = draw_faces(self.picture, to_original(self.to("cpu"), size), DRAWING_SCALE)
        uri = picture_uri(Image.fromarray(drawn), QUALITY)
        alt = f"{len(self)} faces marked in the picture"
        return f'<img src="{uri}" alt="{alt}" width="{size[1]}" height="{size[0]}">{table}'


def with_picture(faces: Faces, image: np.ndarray) -> PicturedFaces:
    """The faces, with a small copy of their picture [H, W, 3] uint8 RGB."""
    height, width = image.shape[:2]
    size = shortest_side_size((height, width), SIDE, SIDE)
    if max(size) > max(height, width):  # a small picture is not blown up
        size = (height, width)
    known = {field.name: getattr(faces, field.name) for field in fields(Faces)}
    return PicturedFaces(**known, picture=resize_image(image, size))

"""Heat maps as results keep them: the map's own grid as a small picture, and what it covers.

Shape letters: N faces; h, w of a heat map.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

MAX_SIDE = 256  # of a map that is read: the feature maps of face methods have tens of cells
MAX_TEXT = 200_000  # characters of one


@dataclass(frozen=True)
class HeatGrid:
    """Where in a face its method sees forgery.

    Attributes:
        bbox: (x, y, width, height) in pixels of the picture that it covers; may reach outside.
        png: base64 of a grey PNG [h, w]; 255 is the most heat.
    """

    bbox: tuple[int, int, int, int]
    png: str

    def entry(self) -> dict[str, object]:
        """For JSON."""
        return {"bbox": list(self.bbox), "png": self.png}

    @classmethod
    def from_entry(cls, told: object) -> HeatGrid | None:
        """The reverse, of a document that may be a stranger's; None if it is none.

        The picture is read and written again, so that nothing but a small grey PNG remains.
        """
        if not isinstance(told, Mapping):
            return None
        try:
            x, y, width, height = (int(edge) for edge in told["bbox"])
            text = told["png"]
            if not isinstance(text, str) or len(text) > MAX_TEXT or min(width, height) < 1:
                return None
            content = base64.b64decode(text, validate=True)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if max(image.size) > MAX_SIDE:
                    return None
                grey = np.asarray(image.convert("L"))
        except (KeyError, TypeError, ValueError, OverflowError, OSError, SyntaxError):
            return None
        return cls((x, y, width, height), _png(grey))


def heat_grids(heat: Tensor, windows: Tensor) -> list[HeatGrid]:
    """Of a predictor's ``heat_maps``.

    Args:
        heat: [N, h, w] in [0, 1].
        windows: [N, 4] int64 (left, top, right, bottom).
    """
    levels = (heat.clamp(0, 1) * 255).round().byte().numpy()
    return [
        HeatGrid((left, top, right - left, bottom - top), _png(one))
        for one, (left, top, right, bottom) in zip(levels, windows.tolist(), strict=True)
    ]


def _png(grey: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")

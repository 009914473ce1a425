"""Heat maps of faces, laid over the picture that they were cut from.

Shape letters: N faces; H, W picture; h, w of a heat map.
"""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from comics.inference.draw import draw_faces
from comics.structures import Faces

OPACITY = 0.65  # of a heat of 1; less heat covers less


def draw_heat_maps(image: np.ndarray, faces: Faces, heat: Tensor, windows: Tensor) -> np.ndarray:
    """A copy of the picture: heat over each face (yellow is most), boxes and labels without masks.

    Args:
        image: [H, W, 3] uint8 RGB.
        faces: of it.
        heat: [N, h, w] in [0, 1].
        windows: [N, 4] int64 (left, top, right, bottom) that the maps cover; may reach outside.
    """
    covered = np.zeros(image.shape[:2], dtype=np.float32)
    for one, window in zip(heat.numpy(), windows.tolist(), strict=True):
        _lay(covered, one, window)
    levels = np.rint(covered * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    share = (covered * OPACITY)[..., None]
    canvas = np.rint(image * (1 - share) + colours * share).astype(np.uint8)
    bare = Faces(
        boxes=faces.boxes,
        image_size=faces.image_size,
        labels=faces.labels,
        scores=faces.scores,
        fake_probability=faces.fake_probability,
    )
    return draw_faces(canvas, bare)


def _lay(covered: np.ndarray, heat: np.ndarray, window: list[int]) -> None:
    """Enlarge a map to its window and put what is inside the picture there; the hotter one wins."""
    left, top, right, bottom = window
    large = cv2.resize(heat, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(right, covered.shape[1]), min(bottom, covered.shape[0])
    inside = covered[y0:y1, x0:x1]
    np.maximum(inside, large[y0 - top : y1 - top, x0 - left : x1 - left], out=inside)

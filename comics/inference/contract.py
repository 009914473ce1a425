"""What runs, videos, pages and the server need of a predictor, whichever runtime it uses.

``comics.inference.predictor.Predictor`` (PyTorch) and ``comics.inference.onnx.predictor`` (ONNX
Runtime) fulfil it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from comics.structures import Faces


class ImagePredictor(Protocol):
    """Finds the faces of images and says which are forged.

    Attributes:
        max_pixels: readers of files refuse larger images.
    """

    max_pixels: int

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """Verdicts of each [H, W, 3] uint8 RGB image."""


class HeatPredictor(ImagePredictor, Protocol):
    """The same, and shows where."""

    def heat_maps(self, image: np.ndarray, faces: Faces) -> tuple[Tensor, Tensor]:
        """[N, h, w] heat of an image's faces and their windows; needs a face method."""


class FacePredictor(HeatPredictor, Protocol):
    """The same, and says what it is.

    Attributes:
        provenance: JSON; model, weights and thresholds, as every output states them.
    """

    @property
    def provenance(self) -> dict[str, object]:
        """What every output says of the model."""

    def model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the model sees an image of that size at."""

"""COMICS: find every face in a photo or video, say which are forged, and show where.

The package is layered; imports only point left (``docs/architecture.md``)::

    {config, registry, ops} <- structures <- {data, modeling} <- {engine, evaluation, inference}
        <- {runs, video, pages, server} <- integrations <- commands <- cli, tools

In short::

    predictor = comics.load("model.safetensors")
    faces = predictor("photo.jpg")                       # Faces: boxes, labels, fake_probability
    for index, time_s, faces in predictor("clip.mp4"):   # frame by frame
        ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comics.api import MediaPredictor

__version__ = "0.1.0"

# ONNX Runtime (1.31 on Linux) tells Microsoft of its use from the moment it is imported, and leaves
# an identifier of the machine behind; whoever wants that sets the variable to 0
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def load(
    weights: str | os.PathLike | None = None, device: str = "auto", **options: Any
) -> MediaPredictor:
    """A predictor, to be called with pictures and videos: see ``MediaPredictor.__call__``.

    Args:
        weights: a model file, or an ONNX file of ``comics export``; "default", the one that comes
            with the package; an address, ``https://host/model.safetensors#sha256=...`` or
            ``hf://owner/repository/model.safetensors@<commit>``; None: what the environment
            variable COMICS_WEIGHTS names so, else "default".
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        options: thresholds, face method and the like: see ``Predictor.from_file``.

    Raises:
        FileNotFoundError, ValueError: if a file is absent, broken or of another architecture, a
            threshold is outside [0, 1], or the device is not there.
        OSError: if an address cannot be fetched.
    """
    # Importing torch takes seconds; `import comics` does not
    from comics.api import MediaPredictor
    from comics.inference.default_weights import default_weights
    from comics.inference.load import load_predictor

    return MediaPredictor(load_predictor(default_weights(weights), device, **options))

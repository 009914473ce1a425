"""Which model file is used where none is named."""

from __future__ import annotations

import os
from pathlib import Path

import comics

VARIABLE = "COMICS_WEIGHTS"
SHIPPED = Path(comics.__file__).parent / "weights" / "default.safetensors"


def default_weights(given: str | os.PathLike | None = None) -> Path:
    """The model file to use: ``given``, else the one that ``COMICS_WEIGHTS`` names, else ours.

    Whether a named file exists is seen when it is loaded.

    Raises:
        FileNotFoundError: if none is named and none comes with the package, saying how to get one.
    """
    if given is not None:
        return Path(given)
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    if SHIPPED.is_file():
        return SHIPPED
    raise FileNotFoundError(
        f"no model file: name one by --weights FILE or the environment variable {VARIABLE}. None "
        "comes with this version of the package; train one by tools/train_net.py, or, to try "
        "things out, by tools/lab/train_demo.py (output/train_demo/train/model_best.safetensors)"
    )

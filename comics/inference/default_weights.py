"""Which model file is meant: by a name, an address, a variable, or where none is named."""

from __future__ import annotations

import os
from pathlib import Path

import comics
from comics.inference.remote_weights import fetch_weights, is_remote

DEFAULT_NAME = "default"
VARIABLE = "COMICS_WEIGHTS"
SHIPPED = Path(comics.__file__).parent / "weights" / "default.safetensors"


def default_weights(given: str | os.PathLike | None = None) -> Path:
    """The model file to use: ``given``, else the one that ``COMICS_WEIGHTS`` names, else ours.

    Whether a named file exists is seen when it is loaded.

    Args:
        given: a path; "default", the one that comes with the package; or an address, which is
            fetched first: see ``comics.inference.remote_weights.fetch_weights``.

    Raises:
        FileNotFoundError: if none is named and none comes with the package, saying how to get one.
        ValueError, OSError: as ``fetch_weights``.
    """
    named = given or os.environ.get(VARIABLE)
    if named and named != DEFAULT_NAME:
        return fetch_weights(str(named)) if is_remote(named) else Path(named)
    if SHIPPED.is_file():
        return SHIPPED
    raise FileNotFoundError(
        f"no model file: name one by --weights FILE or the environment variable {VARIABLE}. None "
        "comes with this version of the package; train one by tools/train_net.py, or, to try "
        "things out, by tools/lab/train_demo.py (output/train_demo/train/model_best.safetensors)"
    )

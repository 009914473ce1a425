"""How often a model errs by size and quality of face, as its file's metadata keeps it.

The measuring tools write such a table beside their figures; ``tools/lab/finish_weights.py`` puts it
into the model file that was measured, and reports show it from there
(``comics.inference.knowledge``).

Shape letters: N measured faces.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from comics.data.json_files import read_json
from comics.evaluation.verdict_figures import SIZES
from comics.files import write_bytes
from comics.inference.knowledge import ErrorRate

MIN_FACES = 20  # of a class and size, for its share to be told


def rates_by_size(
    labels: np.ndarray, forged: np.ndarray, sides: np.ndarray, measured_on: str, quality: str = ""
) -> list[ErrorRate]:
    """An error rate of each class of size that has enough real and forged faces.

    Args:
        labels: [N] 0 real, 1 fake.
        forged: [N] bool, whether it was called forged.
        sides: [N] shorter side of the box, in pixels.
        measured_on, quality: as in ``ErrorRate``.
    """
    rates = []
    for low, high in SIZES.values():
        own = (sides >= low) & (sides < high)
        called = [forged[own & (labels == label)] for label in (0, 1)]
        if min(map(len, called)) < MIN_FACES:
            continue
        rates.append(
            ErrorRate(
                measured_on=measured_on,
                faces=int(own.sum()),
                min_side=float(low),
                max_side=None if math.isinf(high) else float(high),
                real_called_forged=round(float(called[0].mean()), 4),
                forged_called_forged=round(float(called[1].mean()), 4),
                quality=quality,
            )
        )
    return rates


def write_rates(path: str | os.PathLike, rates: Sequence[ErrorRate], weights_sha256: str) -> None:
    """Write a table of error rates; ``weights_sha256`` is of the model file that was measured."""
    content = {"weights_sha256": weights_sha256, "rates": [asdict(rate) for rate in rates]}
    write_bytes(Path(path), json.dumps(content, indent=1).encode("utf-8"))


def read_rates(path: str | os.PathLike, weights_sha256: str) -> list[ErrorRate]:
    """The reverse.

    Args:
        path: of ``write_rates``.
        weights_sha256: of the model file that they are wanted for.

    Raises:
        FileNotFoundError: if it is absent.
        ValueError: naming the file, if it is no such table, or one of another model file.
    """
    try:
        content = read_json(path)
        measured = content["weights_sha256"]
        rates = [ErrorRate.from_entry(entry) for entry in content["rates"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: no table of error rates: {error!r}") from error
    if measured != weights_sha256:
        raise ValueError(
            f"{path}: measured with the model file of SHA-256 {measured}, and not with that of "
            f"{weights_sha256}"
        )
    return rates

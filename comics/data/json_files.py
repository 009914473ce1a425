"""JSON that other programs wrote: how it is decoded, and what counts as a number or a flag in it.

Nothing here imports torch: files of results are checked without it.
"""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INT64 = range(-(2**63), 2**63)  # what ids must fit into: tensors and columns hold 64 bits


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        OSError: if it cannot be read.
        ValueError: saying what keeps it from being JSON; the file is not named.
    """
    return decode_json(Path(path).read_bytes())


def decode_json(data: bytes) -> Any:
    """The content of JSON bytes; as ``read_json``."""
    if not data.strip():
        raise ValueError("the file is empty")
    text = data.decode(json.detect_encoding(data))
    del data  # else both are held while the content is made
    try:
        with collection_paused():
            return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def collection_paused() -> Iterator[None]:
    """Python looks for no cycles to collect: among a million new objects it would look in vain,
    again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def integer(value: Any) -> int | None:
    """An integer, or a float without fraction, of 64 bits, as int; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not finite(value):
        return None
    return int(value) if value == int(value) and int(value) in INT64 else None


def finite(value: Any) -> bool:
    """Whether it is a finite number; bools and texts are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def flag(value: Any) -> bool | None:
    """0, 1 or a bool as bool; None for anything else, such as "0", which is true in Python."""
    if isinstance(value, bool):
        return value
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None

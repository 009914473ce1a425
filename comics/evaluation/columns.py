"""Turning lists of JSON objects into checked numpy columns, with errors that name the entry.

Everything here is torch-free, so that evaluating files costs neither torch's import time nor its
memory.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from comics.data.json_files import decode_json, finite, integer


def read_json(source: str | os.PathLike) -> Any:
    """The content of a JSON file, gzipped where its name ends in ``.gz``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON, naming file and place.
    """
    path = Path(source)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return decode_json(file.read())
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error


def require_objects(entries: Any, where: str) -> None:
    """Raise ``ValueError`` unless ``entries`` is a list of JSON objects."""
    if not isinstance(entries, list):
        raise ValueError(f"{where} must be a list of objects, got {type(entries).__name__}")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: entry {position} is a {type(entry).__name__}, no object")


def column(entries: Sequence[Mapping], key: str, where: str, default: Any = None) -> list:
    """The value of ``key`` of every entry.

    Args:
        default: of entries without it, or where it is null or an empty list.

    Raises:
        ValueError: naming the first entry without it, unless there is a ``default``.
    """
    if default is not None:
        return [default if entry.get(key) in (None, []) else entry[key] for entry in entries]
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        position = next(i for i, entry in enumerate(entries) if key not in entry)
        raise ValueError(f"{where}: entry {position} has no {key!r}") from None


def integer_column(entries: Sequence[Mapping], key: str, where: str) -> np.ndarray:
    """[n] int64; ``ValueError`` naming the first entry whose value is not such an integer.

    Some tools write 5.0, which is one; a bool or a text is none.
    """
    values = column(entries, key, where)
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    _raise_first(values, _is_integer, key, where, "an integer of 64 bits")
    return np.array([int(value) for value in values], dtype=np.int64)


def float_column(
    entries: Sequence[Mapping], key: str, where: str, default: float | None = None
) -> np.ndarray:
    """[n] float64; ``ValueError`` naming the first entry whose value is no finite number."""
    values = column(entries, key, where, default)
    if not set(map(type, values)) <= {float}:
        _raise_first(values, finite, key, where, "a finite number")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        _raise_first(values, finite, key, where, "a finite number")
    return array


def box_column(
    entries: Sequence[Mapping], where: str, default: Sequence[float] | None = None
) -> np.ndarray:
    """[n, 4] float64 (x, y, width, height) in pixels.

    Raises:
        ValueError: naming the first box that is not four finite numbers, or has a negative size.
    """
    values = column(entries, "bbox", where, default)
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}) or not (
        set(map(type, chain.from_iterable(values))) <= {float}
    ):
        _raise_first(values, _is_box, "bbox", where, "four numbers (x, y, width, height)")
    boxes = np.array(values, dtype=np.float64) if values else np.zeros((0, 4))
    refuse(~np.isfinite(boxes).all(axis=1), where, lambda i: f"bbox {values[i]} is not finite")
    refuse((boxes[:, 2:] < 0).any(axis=1), where, lambda i: f"bbox {values[i]} has a negative size")
    return boxes


def positions_of(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[n] int64: position of each value in the ascending ``known``; -1 where it is not there."""
    if not len(known):
        return np.full(len(values), -1, dtype=np.int64)
    position = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[position] == values, position, -1)


def refuse(
    bad: np.ndarray | np.bool,
    where: str,
    fault: Callable[[int], str],
    positions: Sequence[int] | np.ndarray | None = None,
) -> None:
    """Raise ``ValueError`` naming the first entry that is ``bad`` ([n] bool), if there is one.

    Args:
        bad: of each entry.
        where: file and list that the entries are of.
        fault: index into ``bad`` -> what is wrong.
        positions: the entries' numbers in the file (default: 0, 1, ...).
    """
    if bad.any():
        index = int(np.argmax(bad))
        position = index if positions is None else positions[index]
        more = int(bad.sum()) - 1
        also = f" ({more} more entries have this fault)" if more else ""
        raise ValueError(f"{where}: entry {position}: {fault(index)}{also}")


def refuse_duplicates(values: np.ndarray, where: str, what: str) -> None:
    """Raise ``ValueError`` naming the first entry whose value an earlier one already has."""
    repeated = np.ones(len(values), dtype=bool)
    repeated[np.unique(values, return_index=True)[1]] = False
    refuse(repeated, where, lambda i: f"{what} {values[i]} is used twice")


def _is_integer(value: Any) -> bool:
    return integer(value) is not None


def _is_box(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    """A number that fits a float, NaN and infinite ones too."""
    return finite(value) or isinstance(value, float)


def _raise_first(
    values: list, accept: Callable[[Any], bool], key: str, where: str, kind: str = "an integer"
) -> None:
    for position, value in enumerate(values):
        if not accept(value):
            raise ValueError(f"{where}: entry {position}: {key!r} must be {kind}, got {value!r}")

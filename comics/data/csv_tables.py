"""Tables as CSV that other programs wrote: encodings, separators and ends of lines of any system.

Nothing here imports torch.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Spreadsheets write ";" where "," separates decimals; the one that splits the heading best is meant
DELIMITERS = ",;\t"
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        columns: names, without space around them.
        rows: (line that the row ends at, from 1; values) of each row, to be gone through once:
            many rows need not be held. The number of values is not checked; rows of nothing are
            left out. Raises ``ValueError``, without the file's name, where it is no CSV.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[int, list[str]]]


def read_table(path: str | os.PathLike, max_field: int | None = None) -> Table:
    """Read a table whose first line names its columns.

    UTF-8 with or without a byte order mark, UTF-16 or UTF-32 with one; "," or ";" or tabs; any ends
    of lines; fields in double quotes. An empty file has no columns. Bytes that are not UTF-8
    survive as surrogates, as in file names.

    Args:
        path: of the file.
        max_field: characters of a field; None: csv's own limit.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no CSV; the file is not named.
    """
    if max_field is not None:
        csv.field_size_limit(max(max_field, csv.field_size_limit()))
    text = decode_text(Path(path).read_bytes())
    if not text.strip():
        return Table((), iter(()))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows = _rows(reader)
    _, columns = next(rows)
    return Table(tuple(name.strip() for name in columns), rows)


def decode_text(data: bytes) -> str:
    """Text by its byte order mark, else UTF-8, whose faulty bytes become surrogates.

    Raises:
        ValueError: if it is not what its mark says.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            return data.decode(encoding, errors)
    return data.decode("utf-8", "surrogateescape")


def _rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _delimiter(text: str) -> str:
    heading = text.lstrip().splitlines()[0]
    return max(DELIMITERS, key=heading.count)

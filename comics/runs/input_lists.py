"""Lists of paths: a file, or the standard input, that names one path a line.

* Bytes that are not UTF-8 stay what they are, as in the names of files.
* Where a NUL byte occurs, NUL bytes end the paths instead of lines (``find -print0``), since a
  name may hold a line end.
* A mark of UTF-16 or UTF-8 at the beginning is understood (Windows writes them), and so are its
  line ends. Empty lines are passed over; nothing else has a meaning: no comments, no patterns.
* Relative paths are relative to the current folder, as for any command.
"""

from __future__ import annotations

import codecs
import os
import sys

STDIN = "-"
MAX_LIST_BYTES = 2**30  # a list is text: more than this is a mistake, such as a video given as one


class ListError(ValueError):
    """A list that cannot be read."""


def read_list(name: str | os.PathLike) -> list[str]:
    """The paths that a list names, in its order.

    Args:
        name: of the file; "-" is the standard input.

    Raises:
        ListError: naming the list, if it cannot be read.
    """
    try:
        if name == STDIN:
            content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
        else:
            with open(name, "rb") as file:
                content = file.read(MAX_LIST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ListError(f"the list {os.fspath(name)} cannot be read: {reason}") from error
    if len(content) > MAX_LIST_BYTES:
        raise ListError(f"the list {os.fspath(name)} is larger than {MAX_LIST_BYTES} bytes")
    return parse_list(content)


def parse_list(content: bytes) -> list[str]:
    """The paths that the content of a list names; never fails."""
    for mark, encoding in (
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding, "replace")
            content = text.encode("utf-8", "surrogatepass")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        parts = content.split(b"\0")
    else:
        parts = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]

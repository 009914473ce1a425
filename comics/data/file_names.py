"""File names in annotation files and manifests that were written on another system."""

from __future__ import annotations

import os

WINDOWS_SEPARATOR = "\\"


def local_name(name: str, root: str | os.PathLike) -> str:
    """A name from a file, as this system knows it.

    Windows separates folders by a backslash, which elsewhere may be part of a name: it is taken
    for a separator only where the file does not exist as named.

    Args:
        name: relative to ``root``, or absolute.
        root: folder that it starts from.
    """
    if WINDOWS_SEPARATOR not in name or os.path.lexists(os.path.join(root, name)):
        return name
    return name.replace(WINDOWS_SEPARATOR, "/")


def is_file_name(name: str) -> bool:
    """Whether the system can be asked for a file of that name."""
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:  # half of a surrogate pair
        return False

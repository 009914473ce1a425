"""File names: as people are shown them, and in files that were written on another system."""

from __future__ import annotations

import os

WINDOWS_SEPARATOR = "\\"
SURROGATE_OF_BYTE_0 = 0xDC00  # Python's stand-ins for bytes of a name that are not UTF-8


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


def display_name(path: str | os.PathLike) -> str:
    """A path as printable text that JSON and terminals can hold.

    Bytes that are not UTF-8, and characters that are not printable (line ends, terminal codes,
    marks that reverse the direction of writing), become escapes such as ``\\xe9`` or ``\\n``.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in os.fspath(path))


def _escape(character: str) -> str:
    byte = ord(character) - SURROGATE_OF_BYTE_0
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape").decode("ascii")

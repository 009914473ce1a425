"""What errors say to people; it imports nothing, since commands do before they know their words."""

from __future__ import annotations


def error_text(error: object) -> str:
    """What an error says; of a ``KeyError``, as of an unknown name, without its repr's quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)

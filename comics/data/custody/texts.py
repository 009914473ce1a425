"""A stranger's text, fit for results, tables and terminals."""

from __future__ import annotations

from comics.data.file_names import display_name

MAX_TEXT = 200  # characters
CUT = "…"


def plain_text(text: str, limit: int = MAX_TEXT) -> str | None:
    """A text without white space around it, its unprintable characters escaped, cut to ``limit``.

    None of an empty one.
    """
    # Cut first: what is escaped may be megabytes
    text = display_name(text.strip("\0 \t\r\n")[: limit + 1])
    if len(text) > limit:
        text = text[: limit - 1] + CUT
    return text or None


def decoded(content: bytes) -> str:
    """Text of a field that should be ASCII, and is often UTF-8; other bytes become escapes."""
    return content.decode("utf-8", "surrogateescape")

"""How a command says why it stops."""

from __future__ import annotations

import argparse
import sys

from comics.errors import error_text


def stop(options: argparse.Namespace, message: object, code: int) -> int:
    """Print "program: message" on stderr; returns the exit code.

    Args:
        options: of the command, with its ``program``.
        message: what is wrong; of a ``KeyError`` its text without quotes.
        code: the exit code.
    """
    print(f"{options.program}: {error_text(message)}", file=sys.stderr)
    return code

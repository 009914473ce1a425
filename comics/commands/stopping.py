"""How a command says why it stops."""

from __future__ import annotations

import argparse
import sys


def stop(options: argparse.Namespace, message: object, code: int) -> int:
    """Print "program: message" on stderr; returns the exit code.

    Args:
        options: of the command, with its ``program``.
        message: what is wrong; of a ``KeyError`` its text without quotes.
        code: the exit code.
    """
    text = message.args[0] if isinstance(message, KeyError) and message.args else message
    print(f"{options.program}: {text}", file=sys.stderr)
    return code

"""Packages that only scaling needs: said in a sentence where they are absent."""

from __future__ import annotations

import importlib.util

EXTRA = "comics-forensics[scale]"


class MissingPackage(ValueError):
    """A package of the extra "scale" is not installed."""


def require(package: str, purpose: str) -> None:
    """Make sure that a package is installed; it is not imported.

    Args:
        package: as it is imported, "ray" or "pyarrow".
        purpose: what needs it.

    Raises:
        MissingPackage: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackage(f'{purpose} needs {package}: pip install "{EXTRA}"')

"""Tables of names to classes, so that a configuration can name what it wants.

A class enters a table where it is defined (``@DETECTORS.register()``); the package's ``__init__``
imports every module beside it, so a table is complete as soon as its package is imported, and a new
module needs no list to be edited.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fvcore.common.registry import Registry as _FvcoreRegistry

Entry = TypeVar("Entry")  # what a table holds: classes of a kind, or functions


class Registry(_FvcoreRegistry, Generic[Entry]):
    """fvcore's registry, whose error for an unknown name lists the choices."""

    def get(self, name: str) -> Entry:
        """Return the entry called ``name``; raise ``KeyError`` naming the choices if absent."""
        if name in self:
            return super().get(name)
        choices = sorted(key for key, _ in self)
        nearest = difflib.get_close_matches(name, choices, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise KeyError(f"no {self._name} named {name!r}.{hint} Choices: {', '.join(choices)}")


# The classes live to the right of this module, which may not name them: see each package's base
DETECTORS: Registry[Any] = Registry("detector")
FACE_METHODS: Registry[Any] = Registry("face method")
ENCODERS: Registry[Any] = Registry("encoder")
# Further views of a face sample: see comics.data.faces.own_views
FACE_VIEWS: Registry[Any] = Registry("view of faces")
DATASETS: Registry[Any] = Registry("dataset")
# Backbones of other libraries: MODEL.BACKBONE.NAME "<source>/<name>" is built by source(cfg)
BACKBONE_SOURCES: Registry[Callable[[Any], Any]] = Registry("source of backbones")

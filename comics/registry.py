"""Tables of names to classes, so that a configuration can name what it wants.

A class enters a table where it is defined (``@DETECTORS.register()``). A table that knows its
package imports what it is asked for: the module that is called like the entry, or every module
where none is, or all names are wanted. So nothing is imported for entries that are not used, and a
new module needs no list to be edited.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from fvcore.common.registry import Registry as _FvcoreRegistry

Entry = TypeVar("Entry")  # what a table holds: classes of a kind, or functions


class Registry(_FvcoreRegistry, Generic[Entry]):
    """fvcore's registry, whose error for an unknown name lists the choices.

    Args:
        name: what an entry is called in messages.
        package: whose modules hold the entries; None: they are imported by others.
    """

    def __init__(self, name: str, package: str | None = None) -> None:
        super().__init__(name)
        self._package = package

    def __contains__(self, name: str) -> bool:
        """Whether there is an entry of that name."""
        return super().__contains__(name) or self._found(name)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Every name with its entry."""
        self._import_modules()
        return super().__iter__()

    def get(self, name: str) -> Entry:
        """Return the entry called ``name``; raise ``KeyError`` naming the choices if absent."""
        if name in self:
            return super().get(name)
        choices = sorted(key for key, _ in self)
        nearest = difflib.get_close_matches(name, choices, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise KeyError(f"no {self._name} named {name!r}.{hint} Choices: {', '.join(choices)}")

    def _found(self, name: str) -> bool:
        """Whether importing the package's modules has brought the name: first its namesake's."""
        for wanted in (name.lower(), None):
            self._import_modules(wanted)
            if super().__contains__(name):
                return True
        return False

    def _import_modules(self, wanted: str | None = None) -> None:
        """Of the package: the one of that name, underscores left out; None: all."""
        if self._package is None:
            return
        package = importlib.import_module(self._package)
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):
            if wanted is None or module.name.replace("_", "") == wanted:
                importlib.import_module(f"{self._package}.{module.name}")


# The classes live to the right of this module, which may not name them: see each package's base
DETECTORS: Registry[Any] = Registry("detector", "comics.modeling.detectors")
FACE_METHODS: Registry[Any] = Registry("face method", "comics.modeling.faces")
ENCODERS: Registry[Any] = Registry("encoder", "comics.modeling.faces")
# Further views of a face sample: see comics.data.faces.own_views
FACE_VIEWS: Registry[Any] = Registry("view of faces")
DATASETS: Registry[Any] = Registry("dataset")
# Backbones of other libraries: MODEL.BACKBONE.NAME "<source>/<name>" is built by source(cfg)
BACKBONE_SOURCES: Registry[Callable[[Any], Any]] = Registry("source of backbones")

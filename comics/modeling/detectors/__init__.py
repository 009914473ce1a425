"""Detectors: every package in here is one, and importing this one fills the table of detectors.

The modules beside them are the contract (``base``) and the parts that several detectors share.
"""

import importlib
import pkgutil

for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    if _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")

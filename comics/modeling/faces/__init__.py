"""Face methods: each a file of its own, all with the contract of ``base``.

Importing this package imports every module in it, which fills the tables of methods and encoders.
"""

import importlib
import pkgutil

for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    importlib.import_module(f"{__name__}.{_module.name}")

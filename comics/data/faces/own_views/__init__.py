"""Views that single face methods bring along; every module in here registers its own.


A view is a function in ``comics.registry.FACE_VIEWS``, called for each sample as::

    view(maker, sample, plain, rng) -> [S, S, 3] uint8 RGB, or None where the row has no such view

with the ``SampleMaker``, the ``FaceSample`` so far (``sample.image`` is the augmented query,
``sample.row`` its row of ``maker.manifest``), the crop before augmentation, and the sample's own
stream of random numbers: all randomness must come from it.
"""

import importlib
import pkgutil

for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    importlib.import_module(f"{__name__}.{_module.name}")

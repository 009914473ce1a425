"""COMICS: find every face in a photo or video, say which are forged, and show where.

The package is layered; imports only point left (``docs/architecture.md``)::

    ops <- structures <- {data, modeling} <- {evaluation, engine, inference} <- integrations, tools
"""

__version__ = "0.1.0"

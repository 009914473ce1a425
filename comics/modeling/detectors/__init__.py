"""Detectors: every package in here is one, which ``comics.registry.DETECTORS`` imports when asked.

The modules beside them are the contract (``base``) and the parts that several detectors share.
"""

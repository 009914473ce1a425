"""Detectors: each a file of its own, all with the contract of ``base``."""

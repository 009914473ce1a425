"""Detectors; importing the package fills the table of detectors."""

from comics.modeling.detectors import blendmask, fcos  # noqa: F401

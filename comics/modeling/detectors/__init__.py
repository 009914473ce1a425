"""Detectors; importing the package fills the table of detectors."""

from comics.modeling.detectors import (  # noqa: F401
    blendmask,
    condinst,
    fcos,
    mask_rcnn,
    meinst,
    solov2,
)

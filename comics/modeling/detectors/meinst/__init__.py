"""MEInst: FCOS, whose locations predict a code of the mask."""

from comics.modeling.detectors.meinst.detector import MEInst

__all__ = ["MEInst"]

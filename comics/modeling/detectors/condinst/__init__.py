"""CondInst: FCOS, whose faces bring the filters that draw their own masks; BoxInst's losses."""

from comics.modeling.detectors.condinst.detector import CondInst

__all__ = ["CondInst"]

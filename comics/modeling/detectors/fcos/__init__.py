"""FCOS, and what detectors that build on it may use: this package's public names."""

from comics.modeling.detectors.fcos.detector import (
    FCOS,
    DenseTraining,
    Detections,
    FCOSHead,
    HeadOutput,
    Selector,
    SquareMaskFCOS,
    detected_cells,
)
from comics.modeling.detectors.fcos.training import (
    FCOSLoss,
    TargetAssigner,
    mean_over_processes,
)

__all__ = [
    "FCOS",
    "DenseTraining",
    "Detections",
    "FCOSHead",
    "FCOSLoss",
    "HeadOutput",
    "Selector",
    "SquareMaskFCOS",
    "TargetAssigner",
    "detected_cells",
    "mean_over_processes",
]

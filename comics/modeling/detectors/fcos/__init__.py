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
    level_major,
)
from comics.modeling.detectors.fcos.training import (
    FCOSLoss,
    FCOSLossOutput,
    TargetAssigner,
    mean_over_processes,
)

__all__ = [
    "FCOS",
    "DenseTraining",
    "Detections",
    "FCOSHead",
    "FCOSLoss",
    "FCOSLossOutput",
    "HeadOutput",
    "Selector",
    "SquareMaskFCOS",
    "TargetAssigner",
    "detected_cells",
    "level_major",
    "mean_over_processes",
]

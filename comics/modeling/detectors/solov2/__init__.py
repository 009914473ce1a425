"""SOLOv2, and what detectors by grids may use: this package's public names."""

from comics.modeling.detectors.solov2.detector import SOLOv2
from comics.modeling.detectors.solov2.grid_detector import DICE_SMOOTHING, GridDetector, SOLOLoss
from comics.modeling.detectors.solov2.heads import (
    check_norm,
    conv_tower,
    even_scales,
    initialise_small,
    resize_map,
    with_coordinates,
)
from comics.modeling.detectors.solov2.selection import MASKS_AT_ONCE, MaskSelector
from comics.modeling.detectors.solov2.targets import CellAssigner, LevelTargets, shrink_masks

__all__ = [
    "DICE_SMOOTHING",
    "MASKS_AT_ONCE",
    "CellAssigner",
    "GridDetector",
    "LevelTargets",
    "MaskSelector",
    "SOLOLoss",
    "SOLOv2",
    "check_norm",
    "conv_tower",
    "even_scales",
    "initialise_small",
    "resize_map",
    "shrink_masks",
    "with_coordinates",
]

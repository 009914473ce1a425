"""Measuring results: AP, oLRP, AUC, calibration, robustness, and the tables of the report.

Definitions: docs/methods.md#metrics. ``evaluate`` (``comics.evaluation.metrics``) compares a
results file with its ground truth; ``comics.pages`` draws the report.

Importing this package imports no torch: files are evaluated without its time and memory.
"""

from comics.evaluation.ground_truth import GroundTruth, load_ground_truth
from comics.evaluation.metrics import MODES, Metrics, evaluate
from comics.evaluation.results import Detections, ResultsWriter, load_results

__all__ = [
    "MODES",
    "Detections",
    "GroundTruth",
    "Metrics",
    "ResultsWriter",
    "evaluate",
    "load_ground_truth",
    "load_results",
]

"""Measuring: AP, oLRP, AUC, calibration, robustness, and the report."""

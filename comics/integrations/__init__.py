"""Bridges to other projects: weights and runtimes."""

"""Runs over many files: what is read, in which order, what is written, and how a run continues."""

"""Runs over many files: what is read, in which order, what is written, and how a run continues.

``run`` is the loop, ``inputs`` and ``input_lists`` say which files, ``state`` and ``records`` keep
what is finished, ``outputs``, ``csv_files`` and ``pictures`` write. Verdicts come from
``comics.inference``, videos go through ``comics.video``, ``comics.pages`` makes the report.
"""

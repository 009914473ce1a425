"""Training: loop, optimiser, checkpoints, processes, logs.

``train`` puts the parts together, ``trainer`` is the loop, ``step`` one optimiser step; ``tasks``
says what differs between detectors and face methods. Batches come from ``comics.data``, losses from
``comics.modeling``, figures from ``comics.evaluation``.
"""

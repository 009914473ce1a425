"""Pure functions on tensors: boxes, masks, losses, residual filters, similarities.

They hold no state and import no other package of ``comics``; detectors, face methods, inference and
evaluation use them.
"""

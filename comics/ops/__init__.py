"""Pure functions on tensors: boxes, masks, losses, residual filters, similarities."""

"""Training: loop, optimiser, checkpoints, processes, logs."""

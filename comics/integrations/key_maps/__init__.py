"""Names of parameters elsewhere, and ours: one module a part of a model."""

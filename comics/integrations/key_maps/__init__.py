"""Names of parameters in other programs, and ours: a module for each part of a model.

``rules`` applies them; ``comics.integrations.weights`` chooses which.
"""

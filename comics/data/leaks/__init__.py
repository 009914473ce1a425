"""Leaks of a set of faces: what tells its labels without a look at the faces."""

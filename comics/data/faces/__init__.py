"""Single faces: manifests, crops, views, pairs, loaders (papers 000, 001, 002, 004)."""

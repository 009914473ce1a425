"""Single faces: manifests, crops, views, pairs and loaders.

For the methods of docs/methods.md#faces, which live in ``comics.modeling.faces``.
"""

"""Reading, drawing, forging and augmenting images with faces; loaders that feed the models.

Multi-face sets (COCO annotations) are in this package, crops of single faces in
``comics.data.faces``, forgeries in ``comics.data.forgery``. Samples go to ``comics.engine``, which
trains the models of ``comics.modeling``; neither of those is imported here.
"""
